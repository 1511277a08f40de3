//! `events`: what a container uses, once or at intervals, and when the kernel has killed for lack of memory. One JSON
//! object a line, as runc writes them.

use crate::cgroups::oom::OomEvents;
use crate::cgroups::stats;
use crate::cli::EventsArgs;
use crate::error::{Context, Error, Result};
use crate::state::{Container, Record, Status};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::Serialize;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Serialize)]
struct Event<'a, T> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<T>,
}

/// `corten events ID`
pub fn events(root: &Path, args: &EventsArgs) -> Result<()> {
    let container = Container::find(root, &args.id)?;
    if args.interval <= 0 {
        return Err(Error::new("duration interval must be greater than 0"));
    }
    let record = container.record()?;
    let not_running = || Error::new(format!("container with id {} is not running", args.id));
    let (status, init) = container.status(&record)?;
    let pidfd = init.map(|init| init.pidfd()).transpose()?.flatten();
    let pidfd = pidfd.filter(|_| status != Status::Stopped).ok_or_else(not_running)?;
    if args.stats {
        return print_stats(&record);
    }
    let mut oom = record.cgroups.oom_events()?;
    let interval = Duration::from_nanos(args.interval.unsigned_abs());
    print_stats(&record)?;
    let mut next = Instant::now() + interval;
    loop {
        let mut wanted = vec![PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        wanted.extend(oom.as_ref().map(OomEvents::poll_fd));
        let left = next.saturating_duration_since(Instant::now());
        // Rounded up, so that no tick is waited for in a loop; and a day is long enough for one wait.
        let milliseconds = left.as_nanos().div_ceil(1_000_000).min(86_400_000);
        let timeout = PollTimeout::try_from(milliseconds as i32).unwrap_or(PollTimeout::MAX);
        match poll(&mut wanted, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Error::from(errno).context("wait for events: poll")),
        }
        let ended = wanted.first().and_then(PollFd::any).unwrap_or(false);
        // What has killed the container is told before its end.
        for _ in 0..oom.as_mut().map_or(Ok(0), |oom| oom.new_events(&record.cgroups))? {
            print(&Event::<()> { kind: "oom", id: &record.id, data: None })?;
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            print_stats(&record)?;
            next = (next + interval).max(Instant::now());
        }
    }
}

fn print_stats(record: &Record) -> Result<()> {
    let stats = stats::collect(&record.cgroups)?;
    print(&Event { kind: "stats", id: &record.id, data: Some(stats) })
}

fn print<T: Serialize>(event: &Event<'_, T>) -> Result<()> {
    let mut line = serde_json::to_string(event)?;
    line.push('\n');
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush()).context(|| "write to stdout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oom_event_is_runcs() {
        let event = Event::<()> { kind: "oom", id: "c1", data: None };
        assert_eq!(serde_json::to_string(&event).unwrap(), r#"{"type":"oom","id":"c1"}"#);
    }
}
