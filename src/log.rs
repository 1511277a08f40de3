//! The log as runc writes it, for engines read it: logrus text or JSON lines, on stderr or appended to `--log FILE`.
//!
//! With a log file, a fatal error also goes to stderr as the bare message (runc-cli: containerd reads the last error
//! line of the file, Podman the file as one object, a person the terminal).

use crate::error::{Context, Result};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `time="..." level=error msg="..."`
    #[default]
    Text,
    /// `{"level":"error","msg":"...","time":"..."}`
    Json,
}

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Only with `--debug`.
    Debug,
    /// The operation goes on.
    Warning,
    /// The operation has failed.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Debug => "debug",
            Level::Warning => "warning",
            Level::Error => "error",
        }
    }
}

struct Log {
    file: Option<File>,
    format: Format,
    debug: bool,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the log; before this, lines go to stderr as text.
pub fn open(file: Option<&Path>, format: Format, debug: bool) -> Result<()> {
    let file = match file {
        // A log that is a FIFO without a reader must not hang us (rule R23), hence O_NONBLOCK.
        Some(path) => {
            let mut options = OpenOptions::new();
            options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            Some(options.open(path).context(|| format!("open the log file {}", path.display()))?)
        }
        None => None,
    };
    // Only main calls this, once.
    let _ = LOG.set(Log { file, format, debug });
    Ok(())
}

/// In a process that becomes the container's: lets go of its copy of the log file.
pub fn close_inherited() {
    if let Some(file) = LOG.get().and_then(|log| log.file.as_ref()) {
        crate::sys::close_inherited(file.as_fd());
    }
}

/// Logs what happens, for `--debug`; the closure runs only then.
pub fn debug(message: impl FnOnce() -> String) {
    if LOG.get().is_some_and(|log| log.debug) {
        write(Level::Debug, &message());
    }
}

/// Logs something that is odd but does not stop the operation.
pub fn warning(message: &str) {
    write(Level::Warning, message);
}

/// Logs the error that ends this command; with a log file also on stderr.
pub fn fatal(message: &str) {
    write(Level::Error, message);
    if LOG.get().is_some_and(|log| log.file.is_some()) {
        let _ = writeln!(std::io::stderr(), "{message}");
    }
}

fn write(level: Level, message: &str) {
    static DEFAULT: Log = Log { file: None, format: Format::Text, debug: false };
    let log = LOG.get().unwrap_or(&DEFAULT);
    let line = render(log.format, level, message, SystemTime::now());
    // There is nowhere to report that the log itself cannot be written.
    let _ = match &log.file {
        Some(file) => (&*file).write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}

fn render(format: Format, level: Level, message: &str, time: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(time);
    match format {
        Format::Text => format!("time=\"{time}\" level={} msg={}\n", level.name(), quote(message)),
        Format::Json => {
            let message = serde_json::Value::from(message);
            format!("{{\"level\":\"{}\",\"msg\":{message},\"time\":\"{time}\"}}\n", level.name())
        }
    }
}

/// Quotes as logrus does: only where the value has more than plain characters, with Go's escapes.
fn quote(message: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if !message.is_empty() && message.chars().all(plain) {
        return message.to_string();
    }
    let mut quoted = String::with_capacity(message.len() + 2);
    quoted.push('"');
    for c in message.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn lines_look_like_logrus() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_668_446);
        let message = "corten run failed: exec: \"x\": not found";
        assert_eq!(
            render(Format::Text, Level::Error, message, time),
            "time=\"2025-11-20T19:54:06Z\" level=error msg=\"corten run failed: exec: \\\"x\\\": not found\"\n"
        );
        assert_eq!(
            render(Format::Json, Level::Warning, message, time),
            "{\"level\":\"warning\",\"msg\":\"corten run failed: exec: \\\"x\\\": not found\",\
             \"time\":\"2025-11-20T19:54:06Z\"}\n"
        );
        assert_eq!(quote("plain"), "plain");
        assert_eq!(quote("a\nb"), "\"a\\nb\"");
    }
}
