//! D-Bus as far as driving systemd needs it: one connection, one call at a time, the signals that come in between, and a
//! deadline for all of it. No threads, no event loop, nothing is asked of the bus that the caller did not ask for.
//!
//! systemd listens on a private socket, too, where the same messages travel without a bus in between: there is nobody to
//! say Hello to, and signals come unasked. The format is that of the D-Bus specification, version 1; what is not needed
//! here (descriptors, dictionaries, incoming calls) is left out.

pub mod text;

use crate::error::{Context, Error, Result};
use crate::sys;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, connect, getsockopt, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long a connection may be used, and so how long a peer that hangs can keep us: a busy systemd takes seconds.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A peer that sends more in one message is not systemd.
const MAX_MESSAGE: usize = 1 << 20;

/// Whose systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    System,
    /// That of the user who calls.
    User,
}

/// A value with its type.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Byte(u8),
    Bool(bool),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    I64(i64),
    U64(u64),
    Double(f64),
    Str(String),
    Path(String),
    Signature(String),
    /// The signature of its elements, which all have it.
    Array(String, Vec<Value>),
    Struct(Vec<Value>),
    Variant(Box<Value>),
}

impl Value {
    /// A text.
    pub fn text(text: impl Into<String>) -> Value {
        Value::Str(text.into())
    }

    /// The type as the specification writes it (`a(sv)`).
    pub fn signature(&self) -> String {
        let code = match self {
            Value::Byte(_) => "y",
            Value::Bool(_) => "b",
            Value::I16(_) => "n",
            Value::U16(_) => "q",
            Value::I32(_) => "i",
            Value::U32(_) => "u",
            Value::I64(_) => "x",
            Value::U64(_) => "t",
            Value::Double(_) => "d",
            Value::Str(_) => "s",
            Value::Path(_) => "o",
            Value::Signature(_) => "g",
            Value::Variant(_) => "v",
            Value::Array(element, _) => return format!("a{element}"),
            Value::Struct(fields) => {
                return format!("({})", fields.iter().map(Value::signature).collect::<String>());
            }
        };
        code.to_string()
    }

    /// Appends the value; positions count from the beginning of `out`.
    fn put(&self, out: &mut Vec<u8>) {
        let text = |out: &mut Vec<u8>, text: &str| {
            put_u32(out, text.len() as u32);
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        };
        let number = |out: &mut Vec<u8>, bytes: &[u8]| {
            pad(out, bytes.len());
            out.extend_from_slice(bytes);
        };
        match self {
            Value::Byte(byte) => out.push(*byte),
            Value::Bool(value) => put_u32(out, u32::from(*value)),
            Value::I16(value) => number(out, &value.to_ne_bytes()),
            Value::U16(value) => number(out, &value.to_ne_bytes()),
            Value::I32(value) => number(out, &value.to_ne_bytes()),
            Value::U32(value) => number(out, &value.to_ne_bytes()),
            Value::I64(value) => number(out, &value.to_ne_bytes()),
            Value::U64(value) => number(out, &value.to_ne_bytes()),
            Value::Double(value) => number(out, &value.to_ne_bytes()),
            Value::Str(value) | Value::Path(value) => text(out, value),
            Value::Signature(value) => put_signature(out, value),
            Value::Variant(value) => {
                put_signature(out, &value.signature());
                value.put(out);
            }
            Value::Struct(fields) => {
                pad(out, 8);
                fields.iter().for_each(|field| field.put(out));
            }
            Value::Array(element, values) => {
                put_u32(out, 0);
                let place = out.len() - 4;
                // What comes before the first element does not count.
                pad(out, alignment(element));
                let begin = out.len();
                values.iter().for_each(|value| value.put(out));
                let length = (out.len() - begin) as u32;
                if let Some(place) = out.get_mut(place..place + 4) {
                    place.copy_from_slice(&length.to_ne_bytes());
                }
            }
        }
    }
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    pad(out, 4);
    out.extend_from_slice(&value.to_ne_bytes());
}

fn put_signature(out: &mut Vec<u8>, signature: &str) {
    out.push(signature.len() as u8);
    out.extend_from_slice(signature.as_bytes());
    out.push(0);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// What a value of a type begins at a multiple of.
fn alignment(signature: &str) -> usize {
    match signature.as_bytes().first() {
        Some(b'y' | b'g' | b'v') => 1,
        Some(b'n' | b'q') => 2,
        Some(b'x' | b't' | b'd' | b'(' | b'{') => 8,
        _ => 4,
    }
}

/// A method of an object, and what it is called with.
#[derive(Debug)]
pub struct Call<'a> {
    pub destination: &'a str,
    pub path: &'a str,
    pub interface: &'a str,
    pub member: &'a str,
    pub arguments: &'a [Value],
}

/// Type and flag of a message, and the fields of its header.
const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;
const NO_REPLY_EXPECTED: u8 = 1;
const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

impl Call<'_> {
    fn to_bytes(&self, serial: u32, flags: u8) -> Vec<u8> {
        let mut body = Vec::new();
        self.arguments.iter().for_each(|argument| argument.put(&mut body));
        let signature: String = self.arguments.iter().map(Value::signature).collect();
        let field = |code, value| Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]);
        let mut fields = vec![
            field(PATH, Value::Path(self.path.to_string())),
            field(DESTINATION, Value::text(self.destination)),
            field(INTERFACE, Value::text(self.interface)),
            field(MEMBER, Value::text(self.member)),
        ];
        if !signature.is_empty() {
            fields.push(field(SIGNATURE, Value::Signature(signature)));
        }
        let endian = if cfg!(target_endian = "little") { b'l' } else { b'B' };
        let mut bytes = vec![endian, METHOD_CALL, flags, 1];
        put_u32(&mut bytes, body.len() as u32);
        put_u32(&mut bytes, serial);
        Value::Array("(yv)".to_string(), fields).put(&mut bytes);
        pad(&mut bytes, 8);
        bytes.extend(body);
        bytes
    }
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Like `org.freedesktop.systemd1.NoSuchUnit`.
    pub name: String,
    pub text: String,
}

/// What comes in.
#[derive(Debug, Default)]
pub struct Message {
    kind: u8,
    reply_to: u32,
    error: String,
    pub interface: String,
    pub member: String,
    signature: String,
    body: Vec<u8>,
    little: bool,
}

impl Message {
    /// Takes a complete message from the front of a buffer; None as long as it has not come completely.
    fn take(buffer: &mut Vec<u8>) -> Result<Option<Message>> {
        let bad = || Error::new("the peer sends what is no D-Bus message");
        let Some([endian, kind, _, version]) = buffer.first_chunk::<4>().copied() else {
            return Ok(None);
        };
        if !matches!(endian, b'l' | b'B') || version != 1 {
            return Err(bad());
        }
        let mut header = Reader { bytes: buffer, at: 4, little: endian == b'l' };
        let (Some(length), Some(_serial), Some(fields)) = (header.u32(), header.u32(), header.u32()) else {
            return Ok(None);
        };
        let begin = 16usize.saturating_add(fields as usize).next_multiple_of(8);
        let end = begin.saturating_add(length as usize);
        if end > MAX_MESSAGE {
            return Err(bad());
        }
        let Some(body) = buffer.get(begin..end) else {
            return Ok(None);
        };
        let mut message = Message { kind, body: body.to_vec(), little: endian == b'l', ..Message::default() };
        let mut header = Reader { bytes: buffer.get(..16 + fields as usize).ok_or_else(bad)?, ..header };
        while header.at < header.bytes.len() {
            message.read_field(&mut header).ok_or_else(bad)?;
        }
        buffer.drain(..end);
        Ok(Some(message))
    }

    fn read_field(&mut self, header: &mut Reader<'_>) -> Option<()> {
        header.align(8);
        let code = header.byte()?;
        let signature = header.signature()?;
        if signature == "u" {
            let number = header.u32()?;
            if code == REPLY_SERIAL {
                self.reply_to = number;
            }
            return Some(());
        }
        let text = match signature.as_str() {
            "s" | "o" => header.text()?,
            "g" => header.signature()?,
            _ => return None,
        };
        match code {
            INTERFACE => self.interface = text,
            MEMBER => self.member = text,
            ERROR_NAME => self.error = text,
            SIGNATURE => self.signature = text,
            _ => {}
        }
        Some(())
    }

    /// The texts and paths among the first arguments, up to the first one that is neither text nor number; a variant counts
    /// as what is in it.
    pub fn texts(&self) -> Vec<String> {
        let mut body = Reader { bytes: &self.body, at: 0, little: self.little };
        let mut texts = Vec::new();
        for code in self.signature.chars() {
            let code = if code == 'v' { body.signature().unwrap_or_default() } else { code.to_string() };
            match code.as_str() {
                "s" | "o" => match body.text() {
                    Some(text) => texts.push(text),
                    None => break,
                },
                "u" if body.u32().is_some() => {}
                _ => break,
            }
        }
        texts
    }
}

/// Reads what [`Value::put`] writes; None where there is no more, or nonsense.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = self.bytes.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        let bytes = *self.bytes.get(self.at..)?.first_chunk::<4>()?;
        self.at += 4;
        Some(if self.little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) })
    }

    /// Some bytes and the NUL behind them.
    fn chars(&mut self, length: usize) -> Option<String> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length + 1;
        String::from_utf8(bytes.to_vec()).ok()
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()?;
        self.chars(length as usize)
    }

    fn signature(&mut self) -> Option<String> {
        let length = self.byte()?;
        self.chars(usize::from(length))
    }
}

/// A place where a bus, or systemd itself, may listen.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Path(PathBuf),
    /// Without a file (unix(7)).
    Abstract(Vec<u8>),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Path(path) => write!(f, "{}", path.display()),
            Address::Abstract(name) => write!(f, "@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// The unix sockets of an address list (`unix:path=/x,guid=...;unix:abstract=y`), with `%xx` for bytes.
fn parse_addresses(text: &str) -> Vec<Address> {
    let parse = |one: &str| {
        let keys = one.strip_prefix("unix:")?;
        keys.split(',').find_map(|pair| match pair.split_once('=')? {
            ("path", value) => {
                use std::os::unix::ffi::OsStringExt;
                Some(Address::Path(PathBuf::from(std::ffi::OsString::from_vec(unescape(value)?))))
            }
            ("abstract", value) => unescape(value).map(Address::Abstract),
            _ => None,
        })
    };
    text.split(';').filter_map(parse).collect()
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next()?, rest.next()?];
        bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
    }
    Some(bytes)
}

/// Where a systemd may be reached, the best first, and whether that is a bus.
fn candidates(to: Bus) -> Vec<(Address, bool)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let on_bus = |text: &str| parse_addresses(text).into_iter().map(|address| (address, true)).collect::<Vec<_>>();
    let mut found = Vec::new();
    match to {
        Bus::System => {
            found.push((Address::Path(PathBuf::from("/run/systemd/private")), false));
            let bus = variable("DBUS_SYSTEM_BUS_ADDRESS");
            found.extend(on_bus(bus.as_deref().unwrap_or("unix:path=/run/dbus/system_bus_socket")));
        }
        Bus::User => {
            found.extend(variable("DBUS_SESSION_BUS_ADDRESS").iter().flat_map(|text| on_bus(text)));
            if let Some(directory) = variable("XDG_RUNTIME_DIR") {
                found.push((Address::Path(Path::new(&directory).join("systemd/private")), false));
                found.push((Address::Path(Path::new(&directory).join("bus")), true));
            }
        }
    }
    found
}

/// A connection to systemd.
pub struct Connection {
    socket: OwnedFd,
    address: Address,
    serial: u32,
    deadline: Instant,
    /// What has come and was not looked at yet.
    buffer: Vec<u8>,
    /// Signals that came while something else was awaited.
    signals: VecDeque<Message>,
}

impl Connection {
    /// Connects, and on a bus asks for the signals that match a rule (D-Bus specification: match rules).
    pub fn open(to: Bus, rule: &str) -> Result<Connection> {
        let whose = if to == Bus::System { "systemd" } else { "the user's systemd" };
        let what = || format!("connect to {whose}");
        let mut failures = Vec::new();
        for (address, on_bus) in candidates(to) {
            match Connection::connect(address.clone()) {
                Ok(mut connection) => {
                    connection.introduce(on_bus.then_some(rule)).context(|| &address).context(what)?;
                    return Ok(connection);
                }
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        match failures.is_empty() {
            true => Err(Error::new("neither DBUS_SESSION_BUS_ADDRESS nor XDG_RUNTIME_DIR is set").context(what())),
            false => Err(Error::new(failures.join("; ")).context(what())),
        }
    }

    fn connect(address: Address) -> Result<Connection> {
        let name = match &address {
            Address::Path(path) => UnixAddr::new(path.as_path())?,
            Address::Abstract(name) => UnixAddr::new_abstract(name)?,
        };
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let limit = TimeVal::seconds(TIMEOUT.as_secs() as i64);
        // Also for connect, which waits where nobody accepts any more.
        setsockopt(&socket, sockopt::SendTimeout, &limit)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &limit)?;
        connect(socket.as_raw_fd(), &name).map_err(timed_out)?;
        let deadline = Instant::now() + TIMEOUT;
        Ok(Connection { socket, address, serial: 0, deadline, buffer: Vec::new(), signals: VecDeque::new() })
    }

    /// Who listens there, by its pid; None if that is nobody of ours.
    pub fn peer(&self) -> Option<Pid> {
        let credentials = getsockopt(&self.socket, sockopt::PeerCredentials).ok()?;
        Some(Pid::from_raw(credentials.pid())).filter(|pid| pid.as_raw() > 0)
    }

    /// In the child of a clone: closes its copy.
    pub fn close_inherited(&self) {
        sys::close_inherited(self.socket.as_fd());
    }

    /// Says who we are: the kernel knows, also from a user namespace, so the name is left empty. Then, on a bus, Hello.
    fn introduce(&mut self, rule: Option<&str>) -> Result<()> {
        self.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        // Two of the three are answered. systemd before 242 has its OK for the first and no use for the second.
        let answers = [self.line()?, self.line()?];
        if !answers.iter().any(|answer| answer.starts_with("OK")) {
            return Err(Error::new(format!("it does not let us in: {}", one_line(&answers.join(", ")))));
        }
        let Some(rule) = rule else { return Ok(()) };
        let on_bus = |member, arguments| Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member,
            arguments,
        };
        let arguments = [Value::text(rule)];
        let serial = self.next_serial();
        let mut bytes = on_bus("Hello", &[]).to_bytes(serial, 0);
        bytes.extend(on_bus("AddMatch", &arguments).to_bytes(self.next_serial(), NO_REPLY_EXPECTED));
        self.send(&bytes)?;
        self.answer(serial)?.map(drop).map_err(|refusal| Error::new(one_line(&refusal.text)))
    }

    /// Calls a method and waits for the answer.
    pub fn call(&mut self, call: &Call<'_>) -> Result<std::result::Result<Message, Refusal>> {
        let what = || format!("{} at {}", call.member, self.address);
        let (what, serial) = (what(), self.next_serial());
        self.send(&call.to_bytes(serial, 0)).and_then(|()| self.answer(serial)).context(|| what)
    }

    /// Waits for the next signal, or returns one that has come already.
    pub fn signal(&mut self) -> Result<Message> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            self.receive_signal()?;
        }
    }

    fn receive_signal(&mut self) -> Result<()> {
        let message = self.receive()?;
        if message.kind == SIGNAL {
            self.signals.push_back(message);
        }
        Ok(())
    }

    fn next_serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    fn answer(&mut self, serial: u32) -> Result<std::result::Result<Message, Refusal>> {
        loop {
            let message = self.receive()?;
            match message.kind {
                METHOD_RETURN if message.reply_to == serial => return Ok(Ok(message)),
                ERROR if message.reply_to == serial => {
                    let text = message.texts().into_iter().next().unwrap_or_default();
                    let text = if text.is_empty() { message.error.clone() } else { text };
                    return Ok(Err(Refusal { name: message.error, text: one_line(&text) }));
                }
                SIGNAL => self.signals.push_back(message),
                _ => {}
            }
        }
    }

    fn receive(&mut self) -> Result<Message> {
        loop {
            if let Some(message) = Message::take(&mut self.buffer)? {
                return Ok(message);
            }
            self.fill()?;
        }
    }

    /// A line of the conversation before the first message.
    fn line(&mut self) -> Result<String> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if self.buffer.len() > MAX_MESSAGE {
                return Err(Error::new("it answers without an end"));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<()> {
        if Instant::now() > self.deadline {
            return Err(timed_out(Errno::EAGAIN));
        }
        let mut bytes = [0; 8192];
        match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
            Ok(0) => Err(Error::new("it has closed the connection")),
            Ok(length) => {
                self.buffer.extend(bytes.iter().take(length));
                Ok(())
            }
            Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(timed_out(errno)),
        }
    }

    fn send(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            match send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL) {
                Ok(length) => bytes = bytes.get(length..).unwrap_or_default(),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(timed_out(errno)),
            }
        }
        Ok(())
    }
}

/// What a time limit of a socket looks like.
fn timed_out(errno: Errno) -> Error {
    match errno {
        Errno::EAGAIN | Errno::ETIMEDOUT | Errno::EINPROGRESS => {
            Error::with_errno(format!("no answer in {} s", TIMEOUT.as_secs()), Errno::ETIMEDOUT)
        }
        errno => errno.into(),
    }
}

/// The text of somebody else, fit for a log of lines.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(1000).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        value.put(&mut out);
        out
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn values_are_laid_out_as_the_specification_says() {
        assert_eq!(bytes(&Value::text("ab")), [2, 0, 0, 0, b'a', b'b', 0]);
        assert_eq!(bytes(&Value::Bool(true)), [1, 0, 0, 0]);
        assert_eq!(
            bytes(&Value::Variant(Box::new(Value::U64(5)))),
            [1, b't', 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
        );
        // The padding before the first element is not part of the length.
        let pids = Value::Array("t".to_string(), vec![Value::U64(1)]);
        assert_eq!(bytes(&pids), [8, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        let pair = Value::Struct(vec![Value::Byte(7), Value::U32(9)]);
        assert_eq!(bytes(&pair), [7, 0, 0, 0, 9, 0, 0, 0]);
        assert_eq!(Value::Array("(sv)".to_string(), vec![]).signature(), "a(sv)");
        assert_eq!(pair.signature(), "(yu)");
    }

    fn call() -> Vec<u8> {
        let arguments = [Value::U32(7), Value::Path("/job/1".to_string()), Value::text("a.scope"), Value::text("done")];
        let call = Call { destination: "d", path: "/p", interface: "i.f", member: "M", arguments: &arguments };
        call.to_bytes(3, 0)
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let whole = call();
        for cut in 0..whole.len() {
            assert!(Message::take(&mut whole[..cut].to_vec()).unwrap().is_none(), "{cut}");
        }
        let mut two = [whole.clone(), whole.clone()].concat();
        for left in [whole.len(), 0] {
            let message = Message::take(&mut two).unwrap().unwrap();
            assert_eq!((message.member.as_str(), message.interface.as_str()), ("M", "i.f"));
            assert_eq!(message.texts(), ["/job/1", "a.scope", "done"]);
            assert_eq!(two.len(), left);
        }
    }

    #[test]
    fn nonsense_is_no_message() {
        let mut wrong = call();
        wrong[0] = b'x';
        assert!(Message::take(&mut wrong).is_err());
        let mut long = call();
        long[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(Message::take(&mut long).is_err());
        // Whatever single byte is changed: an answer, an error, or the wish for more.
        let whole = call();
        for at in 0..whole.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Ok(Some(message)) = Message::take(&mut changed) {
                    message.texts();
                }
            }
        }
    }

    #[test]
    fn addresses_are_lists_with_escapes() {
        let path = |text: &str| Address::Path(PathBuf::from(text));
        assert_eq!(parse_addresses("unix:path=/run/user/1000/bus"), [path("/run/user/1000/bus")]);
        assert_eq!(parse_addresses("unix:path=/a%20b,guid=00"), [path("/a b")]);
        assert_eq!(
            parse_addresses("tcp:host=x;unix:guid=1,abstract=/tmp/x;unix:path=/y"),
            [Address::Abstract(b"/tmp/x".to_vec()), path("/y")]
        );
        for none in ["", "unix:", "unix:path=%zz", "unix:tmpdir=/tmp", "path=/x"] {
            assert_eq!(parse_addresses(none), [], "{none}");
        }
    }

    #[test]
    fn what_others_say_is_one_line() {
        assert_eq!(one_line("a\nb\tc\u{1b}[0m\n"), "a b c [0m");
    }
}
