//! Signals: their names on the command line, and the state in which the container's process starts.

use crate::error::{Context, Error, Result};
use crate::sys;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};

/// Parses a signal as kill(1) takes it: a number, or a name in any case with or without `SIG`.
pub fn parse(text: &str) -> Result<i32> {
    let unknown = || Error::new(format!("unknown signal {text:?}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (0..=64).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper.clone() } else { format!("SIG{upper}") };
    if let Ok(signal) = name.parse::<Signal>() {
        return Ok(signal as i32);
    }
    // The real-time signals, named as bash and Go name them.
    let offset =
        |prefix: &str| name.strip_prefix(prefix).map(|rest| rest.trim_start_matches(['+', '-']).parse::<i32>());
    match (name.as_str(), offset("SIGRTMIN+"), offset("SIGRTMAX-")) {
        ("SIGCLD", ..) => Ok(libc::SIGCHLD),
        ("SIGPOLL", ..) => Ok(libc::SIGIO),
        ("SIGRTMIN", ..) => Ok(34),
        ("SIGRTMAX", ..) => Ok(64),
        (_, Some(Ok(offset @ 0..=30)), _) => Ok(34 + offset),
        (_, _, Some(Ok(offset @ 0..=30))) => Ok(64 - offset),
        _ => Err(unknown()),
    }
}

/// What a process does with signals from its start on, as masks: signal 1 in bit 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inherited {
    pub ignored: u64,
    pub blocked: u64,
}

impl Inherited {
    /// Default dispositions and an empty mask, which is what a fresh process expects.
    pub fn reset(self) -> Result<()> {
        for number in 1..=64 {
            if self.ignored & 1 << (number - 1) != 0 {
                sys::default_signal(number);
            }
        }
        if self.blocked == 0 {
            return Ok(());
        }
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None).context(|| "unblock the signals")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_names_and_numbers() {
        for (text, number) in
            [("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("9", 9), ("0", 0), ("RTMIN", 34), ("SIGRTMIN+1", 35)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for text in ["", "NOSUCH", "-1", "65", "SIG", "SIGSIGKILL", "RTMIN+99"] {
            assert!(parse(text).unwrap_err().to_string().contains("unknown signal"), "{text}");
        }
    }
}
