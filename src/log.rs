//! The log as runc writes it, for engines read it: logrus text or JSON lines, on stderr or appended to `--log FILE`; and
//! as crun does, `--log journald:NAME` and `--log syslog:NAME`.
//!
//! With a log elsewhere, a fatal error also goes to stderr as the bare message (runc-cli: containerd reads the last error
//! line of the file, Podman the file as one object, a person the terminal).

use crate::error::{Context, Error, Result};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::panic::Location;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

/// How a line of the log looks on stderr or in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `time="..." level=error msg="..."`, and for debugging `func="..." file="..."`.
    Text,
    /// `{"errno":"ENOENT","level":"error","msg":"...","time":"..."}`, the keys in order; errno only where one is known.
    Json,
}

impl Format {
    /// `--log-format`
    pub fn parse(text: &str) -> Result<Format> {
        match text {
            "text" | "" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            other => Err(Error::new(format!("invalid log-format: {other}"))),
        }
    }
}

/// How grave a line is; a log has those up to its own level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Level {
    /// The operation has failed.
    Error,
    /// The operation goes on.
    Warning,
    /// What happens.
    Debug,
}

impl Level {
    /// `--log-level`
    pub fn parse(text: &str) -> Result<Level> {
        match text {
            "error" => Ok(Level::Error),
            "warning" => Ok(Level::Warning),
            "debug" => Ok(Level::Debug),
            other => Err(Error::new(format!("invalid log-level: {other}"))),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Debug => "debug",
        }
    }

    /// syslog(3)
    fn severity(self) -> i32 {
        match self {
            Level::Error => libc::LOG_ERR,
            Level::Warning => libc::LOG_WARNING,
            Level::Debug => libc::LOG_DEBUG,
        }
    }
}

struct Log {
    destination: Destination,
    format: Format,
    level: Level,
}

enum Destination {
    Stderr,
    File(File),
    /// The name under which the journal, or syslog, has our entries.
    Journal(UnixDatagram, String),
    Syslog(UnixDatagram, String),
}

impl Destination {
    fn open(log: &Path) -> Result<Destination> {
        let text = log.as_os_str().as_bytes();
        let name = |text: &[u8]| match text {
            [] => "corten".to_string(),
            text => String::from_utf8_lossy(text).into_owned(),
        };
        if let Some(text) = text.strip_prefix(b"journald:") {
            return Ok(Destination::Journal(connect("/run/systemd/journal/socket")?, name(text)));
        }
        if let Some(text) = text.strip_prefix(b"syslog:") {
            return Ok(Destination::Syslog(connect("/dev/log")?, name(text)));
        }
        let path = Path::new(std::ffi::OsStr::from_bytes(text.strip_prefix(b"file:").unwrap_or(text)));
        // A log that is a FIFO without a reader must not hang us (rule R23), hence O_NONBLOCK.
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o644).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        Ok(Destination::File(options.open(path).context(|| format!("open the log file: open {}", path.display()))?))
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Destination::Stderr => None,
            Destination::File(file) => Some(file.as_fd()),
            Destination::Journal(socket, _) | Destination::Syslog(socket, _) => Some(socket.as_fd()),
        }
    }
}

/// A socket of the logging daemon, which must not make us wait (rule R23).
fn connect(path: &str) -> Result<UnixDatagram> {
    let socket = UnixDatagram::unbound().context(|| "open the log: socket")?;
    socket.connect(path).context(|| format!("open the log: connect {path}"))?;
    socket.set_nonblocking(true).context(|| "open the log: fcntl")?;
    Ok(socket)
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Opens the log, which is `--log`; before this, and without it, lines go to stderr as text.
pub fn open(log: Option<&Path>, format: Format, level: Level) -> Result<()> {
    let destination = log.map_or(Ok(Destination::Stderr), Destination::open)?;
    // Only main calls this, once.
    let _ = LOG.set(Log { destination, format, level });
    Ok(())
}

/// In a process that becomes the container's: lets go of its copy of the log.
pub fn close_inherited() {
    if let Some(fd) = LOG.get().and_then(|log| log.destination.fd()) {
        crate::sys::close_inherited(fd);
    }
}

/// Logs what happens, and where, for `--debug`; the closure runs only then.
#[track_caller]
pub fn debug<F: FnOnce() -> String>(message: F) {
    if LOG.get().is_some_and(|log| log.level == Level::Debug) {
        // A closure's type bears the name of the function that it stands in.
        let name = std::any::type_name::<F>();
        let place = Place { function: name.split("::{{closure}}").next().unwrap_or(name), file: Location::caller() };
        write(Level::Debug, &message(), None, Some(place));
    }
}

/// Where a line was logged.
struct Place {
    function: &'static str,
    file: &'static Location<'static>,
}

/// Logs something that is odd but does not stop the operation.
pub fn warning(message: &str) {
    write(Level::Warning, message, None, None);
}

/// Logs the error that ends this command, with the errno that caused it; if the log is elsewhere, on stderr, too.
pub fn fatal(message: &str, errno: Option<Errno>) {
    write(Level::Error, message, errno, None);
    if LOG.get().is_some_and(|log| !matches!(log.destination, Destination::Stderr)) {
        let _ = writeln!(std::io::stderr(), "{}", message.trim_end());
    }
}

fn write(level: Level, message: &str, errno: Option<Errno>, place: Option<Place>) {
    static DEFAULT: Log = Log { destination: Destination::Stderr, format: Format::Text, level: Level::Warning };
    let log = LOG.get().unwrap_or(&DEFAULT);
    if level > log.level {
        return;
    }
    let now = SystemTime::now();
    let line = || render(log.format, level, message, errno, place.as_ref(), now);
    // There is nowhere to report that the log itself cannot be written.
    let _ = match &log.destination {
        Destination::Stderr => std::io::stderr().write_all(line().as_bytes()),
        Destination::File(file) => (&*file).write_all(line().as_bytes()),
        Destination::Journal(socket, name) => socket.send(&journal_entry(name, level, message, errno)).map(drop),
        Destination::Syslog(socket, name) => socket.send(syslog_line(name, level, message, now).as_bytes()).map(drop),
    };
}

fn render(
    format: Format,
    level: Level,
    message: &str,
    errno: Option<Errno>,
    place: Option<&Place>,
    time: SystemTime,
) -> String {
    let (time, level) = (humantime::format_rfc3339_seconds(time), level.name());
    let place = place.map(|place| (place.function, place.file.file(), place.file.line()));
    match format {
        Format::Text => {
            let place = place.map(|(function, file, line)| format!(" func=\"{function}()\" file=\"{file}:{line}\""));
            format!("time=\"{time}\" level={level} msg={}{}\n", quote(message), place.unwrap_or_default())
        }
        Format::Json => {
            let message = serde_json::Value::from(message);
            let errno = errno.map(|errno| format!("\"errno\":\"{errno:?}\",")).unwrap_or_default();
            let place =
                place.map(|(function, file, line)| format!("\"file\":\"{file}:{line}\",\"func\":\"{function}\","));
            let place = place.unwrap_or_default();
            format!("{{{errno}{place}\"level\":\"{level}\",\"msg\":{message},\"time\":\"{time}\"}}\n")
        }
    }
}

/// A datagram of the journal's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): `FIELD=value`, or if the value has
/// lines, the field, a newline, the length in 64 bits and the value.
fn journal_entry(name: &str, level: Level, message: &str, errno: Option<Errno>) -> Vec<u8> {
    let mut entry = Vec::new();
    let mut field = |field: &str, value: &str| {
        entry.extend_from_slice(field.as_bytes());
        if value.contains('\n') {
            entry.push(b'\n');
            entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
        } else {
            entry.push(b'=');
        }
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    };
    field("MESSAGE", message);
    field("PRIORITY", &level.severity().to_string());
    field("SYSLOG_IDENTIFIER", name);
    if let Some(errno) = errno {
        field("ERRNO", &(errno as i32).to_string());
    }
    entry
}

/// What syslog(3) of musl sends: RFC 3164 with the time in UTC, facility `user`.
fn syslog_line(name: &str, level: Level, message: &str, time: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let time = humantime::format_rfc3339_seconds(time).to_string();
    let part = |range| time.get(range).unwrap_or_default();
    let month = part(5..7).parse::<usize>().ok().and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let (month, day) = (month.unwrap_or(&"Jan"), part(8..10).trim_start_matches('0'));
    let priority = libc::LOG_USER | level.severity();
    format!("<{priority}>{month} {day:>2} {} {name}[{}]: {message}", part(11..19), std::process::id())
}

/// Quotes as logrus does: only where the value has more than plain characters, with Go's escapes.
fn quote(message: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._/@^+".contains(c);
    if message.chars().all(plain) {
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
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(c))),
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

    fn time() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_762_286_046)
    }

    #[test]
    fn lines_look_like_logrus() {
        let message = "corten run failed: exec: \"x\": not found";
        assert_eq!(
            render(Format::Text, Level::Error, message, Some(Errno::ENOENT), None, time()),
            "time=\"2025-11-04T19:54:06Z\" level=error msg=\"corten run failed: exec: \\\"x\\\": not found\"\n"
        );
        assert_eq!(
            render(Format::Json, Level::Warning, message, None, None, time()),
            "{\"level\":\"warning\",\"msg\":\"corten run failed: exec: \\\"x\\\": not found\",\
             \"time\":\"2025-11-04T19:54:06Z\"}\n"
        );
        assert_eq!(quote("plain"), "plain");
        assert_eq!(quote(""), "");
        assert_eq!(quote("a\nb\u{1b}\u{85}"), "\"a\\nb\\x1b\\u0085\"");
    }

    #[test]
    fn lines_for_debugging_say_where() {
        let place = Place { function: "corten::run::run", file: Location::caller() };
        let file = format!("src/log.rs:{}", place.file.line());
        assert_eq!(
            render(Format::Text, Level::Debug, "x", None, Some(&place), time()),
            format!("time=\"2025-11-04T19:54:06Z\" level=debug msg=x func=\"corten::run::run()\" file=\"{file}\"\n")
        );
        assert_eq!(
            render(Format::Json, Level::Debug, "x", None, Some(&place), time()),
            format!(
                "{{\"file\":\"{file}\",\"func\":\"corten::run::run\",\"level\":\"debug\",\"msg\":\"x\",\
                 \"time\":\"2025-11-04T19:54:06Z\"}}\n"
            )
        );
    }

    #[test]
    fn json_names_the_errno_and_keeps_its_keys_in_order() {
        assert_eq!(
            render(Format::Json, Level::Error, "open x", Some(Errno::EACCES), None, time()),
            "{\"errno\":\"EACCES\",\"level\":\"error\",\"msg\":\"open x\",\"time\":\"2025-11-04T19:54:06Z\"}\n"
        );
    }

    #[test]
    fn lines_of_a_message_cannot_become_fields_of_the_journal() {
        let entry = journal_entry("me", Level::Error, "a\nPRIORITY=0", Some(Errno::ENOENT));
        let expected = b"MESSAGE\n\x0c\0\0\0\0\0\0\0a\nPRIORITY=0\nPRIORITY=3\nSYSLOG_IDENTIFIER=me\nERRNO=2\n";
        assert_eq!(entry, expected);
    }

    #[test]
    fn a_line_of_syslog_has_priority_time_and_name() {
        let line = syslog_line("me", Level::Warning, "text", time());
        assert_eq!(line, format!("<12>Nov  4 19:54:06 me[{}]: text", std::process::id()));
    }
}
