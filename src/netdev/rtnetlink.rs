//! rtnetlink(7): the few requests that moving network devices takes, over a blocking socket.
//!
//! What the kernel tells of an address stays the bytes that it sent, for it is given back as it was, with attributes
//! that this version has never heard of; and an odd device among a host's many is no obstacle to moving another one.

use crate::error::{Context, Error, Result};
use crate::sys;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_HEADER_SIZE, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR,
    NLM_F_REPLACE, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator, parse_i32, parse_u32,
};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send, socket,
};
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// struct ifinfomsg: family, padding, type (2), index (4), flags (4), mask of flags (4).
const IFINFOMSG: usize = 16;
/// struct ifaddrmsg: family, prefix length, flags, scope, index (4).
const IFADDRMSG: usize = 8;
/// Where both of them have the index.
const INDEX: usize = 4;

/// The kernel's datagrams have 32 KiB at most, unless one device alone needs more.
const DATAGRAM: usize = 64 * 1024;

/// How often a list is asked for that changes while it is made.
const TRIES: u32 = 10;

/// A message without its netlink header: the fixed part that belongs to its type, then attributes.
#[derive(Debug, Clone)]
struct Message {
    kind: u16,
    body: Vec<u8>,
}

/// A network device.
#[derive(Debug, Clone)]
pub struct Link {
    pub index: i32,
    pub name: CString,
    /// Other names that it is found by (`ip link property add altname`).
    pub alternatives: Vec<CString>,
    /// Whether it has been set up, be there a cable or not.
    pub up: bool,
}

/// An address of a network device.
#[derive(Debug, Clone)]
pub struct Address(Message);

/// A socket for one network namespace, which it keeps alive.
pub struct Socket(OwnedFd);

impl Socket {
    /// A socket for the namespace that this process is in; that stays so wherever the process goes.
    pub fn new() -> Result<Socket> {
        let (family, flags) = (AddressFamily::Netlink, SockFlag::SOCK_CLOEXEC);
        let fd =
            socket(family, SockType::Raw, flags, SockProtocol::NetlinkRoute).context(|| "socket(NETLINK_ROUTE)")?;
        // From now on nobody but the kernel can answer: in a namespace that is joined others might try.
        connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).context(|| "connect(NETLINK_ROUTE)")?;
        sys::explain_netlink_errors(fd.as_fd()).context(|| "setsockopt(NETLINK_EXT_ACK)")?;
        Ok(Socket(fd))
    }

    /// The device with a name, be it an alternative one; ENODEV if there is none.
    pub fn link_by_name(&self, name: &CStr) -> Result<Link> {
        self.link(Message::of_link(libc::RTM_GETLINK, 0).with(libc::IFLA_IFNAME, name.to_bytes_with_nul()))
    }

    /// The device with an index; ENODEV if there is none.
    pub fn link_by_index(&self, index: i32) -> Result<Link> {
        self.link(Message::of_link(libc::RTM_GETLINK, index))
    }

    fn link(&self, request: Message) -> Result<Link> {
        let replies = self.ask(request, NLM_F_ACK)?;
        replies.iter().find_map(Link::parse).ok_or_else(|| Errno::ENODEV.into())
    }

    /// All devices of the namespace.
    pub fn links(&self) -> Result<Vec<Link>> {
        let replies = self.list(Message::of_link(libc::RTM_GETLINK, 0)).context(|| "list the network devices")?;
        Ok(replies.iter().filter_map(Link::parse).collect())
    }

    /// All addresses in the namespace, of every family; given to devices anew in this order, they are listed in it.
    pub fn addresses(&self) -> Result<Vec<Address>> {
        let request = Message { kind: libc::RTM_GETADDR, body: vec![0; IFADDRMSG] };
        let replies = self.list(request).context(|| "list the network addresses")?;
        // The kernel lists the newest IPv6 address first.
        let inet6 = |address: &Address| address.byte(0) == Some(libc::AF_INET6 as u8);
        let (newest_first, mut addresses): (Vec<_>, Vec<_>) = replies.into_iter().map(Address).partition(inet6);
        addresses.extend(newest_first.into_iter().rev());
        Ok(addresses)
    }

    /// Moves a device to another namespace, where it gets a certain index and a name; for `%d` in that the kernel finds a
    /// number.
    ///
    /// The kernel moves it first and renames it then, so a device whose new name is refused has moved all the same.
    pub fn move_link(&self, index: i32, namespace: BorrowedFd<'_>, new_index: i32, name: &CStr) -> Result<()> {
        let request = Message::of_link(libc::RTM_SETLINK, index)
            .with(libc::IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes())
            .with(libc::IFLA_NEW_IFINDEX, &new_index.to_ne_bytes())
            .with(libc::IFLA_IFNAME, name.to_bytes_with_nul());
        self.ask(request, NLM_F_ACK).map(drop)
    }

    /// Sets a device up.
    pub fn set_up(&self, index: i32) -> Result<()> {
        let up = libc::IFF_UP as u32;
        let mut request = Message::of_link(libc::RTM_SETLINK, index);
        request.put(8, up);
        request.put(12, up);
        self.ask(request, NLM_F_ACK).map(drop)
    }

    /// Gives a device an address; one that is there already is changed.
    pub fn add_address(&self, index: i32, address: &Address) -> Result<()> {
        let mut request = Message { kind: libc::RTM_NEWADDR, body: address.0.body.clone() };
        request.put(INDEX, index as u32);
        self.ask(request, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE).map(drop)
    }

    /// A list, asked for anew when the kernel says that it changed on the way.
    fn list(&self, request: Message) -> Result<Vec<Message>> {
        for _ in 0..TRIES {
            if let Some(replies) = self.exchange(request.clone(), NLM_F_DUMP)? {
                return Ok(replies);
            }
        }
        Err(Error::new("it changes all the time"))
    }

    fn ask(&self, request: Message, flags: u16) -> Result<Vec<Message>> {
        self.exchange(request, flags).map(Option::unwrap_or_default)
    }

    /// Sends a request and collects the replies; None: they are a list that changed on the way.
    fn exchange(&self, request: Message, flags: u16) -> Result<Option<Vec<Message>>> {
        let mut request = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(request));
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        send(self.0.as_raw_fd(), &bytes, MsgFlags::empty()).context(|| "send to rtnetlink")?;

        let mut buffer = vec![0; DATAGRAM];
        let (mut replies, mut consistent) = (Vec::new(), true);
        loop {
            let mut rest = self.receive(&mut buffer)?;
            while !rest.is_empty() {
                let message = NetlinkMessage::<Message>::deserialize(rest).map_err(unreadable)?;
                let length = (message.header.length as usize).next_multiple_of(4);
                rest = rest.get(length..).unwrap_or_default();
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(reply) => replies.push(reply),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(refusal(error.raw_code(), &error.header));
                    }
                    NetlinkPayload::Done(done) if done.code < 0 => return Err(refusal(done.code, &[])),
                    NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => return Ok(consistent.then_some(replies)),
                    _ => {}
                }
            }
        }
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
        let length = loop {
            // With MSG_TRUNC the length is that of the datagram, even if it does not fit.
            match recv(self.0.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => {}
                other => break other.context(|| "receive from rtnetlink")?,
            }
        };
        buffer.get(..length).ok_or_else(|| Error::new(format!("rtnetlink sent {length} bytes at once")))
    }
}

/// The kernel's refusal: a negative errno, and what it repeats of the request, followed by its reason in words.
fn refusal(code: i32, repeated: &[u8]) -> Error {
    /// linux/netlink.h
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let error = Error::from(Errno::from_raw(code.wrapping_neg()));
    let length = repeated.get(..4).and_then(|length| parse_u32(length).ok()).unwrap_or(0) as usize;
    let reasons = repeated.get(length.next_multiple_of(4)..).unwrap_or_default();
    match string(reasons, NLMSGERR_ATTR_MSG) {
        Some(reason) => error.hint(format!("the kernel says: {}", reason.to_string_lossy())),
        None => error,
    }
}

fn unreadable(error: DecodeError) -> Error {
    Error::new(format!("rtnetlink sent what we cannot read: {error}"))
}

/// The attributes in some bytes: type and value.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(std::result::Result::ok).filter_map(|attribute| {
        let (kind, end) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..end)?))
    })
}

/// The first attribute of a type, which is a string.
fn string(bytes: &[u8], wanted: u16) -> Option<CString> {
    let (_, value) = attributes(bytes).find(|(kind, _)| *kind == wanted)?;
    CStr::from_bytes_until_nul(value).ok().map(CStr::to_owned)
}

impl Message {
    /// A message of one of the types that begin with an ifinfomsg.
    fn of_link(kind: u16, index: i32) -> Message {
        let mut message = Message { kind, body: vec![0; IFINFOMSG] };
        message.put(INDEX, index as u32);
        message
    }

    /// Puts a number into the fixed part.
    fn put(&mut self, offset: usize, number: u32) {
        for (to, from) in self.body.iter_mut().skip(offset).zip(number.to_ne_bytes()) {
            *to = from;
        }
    }

    /// Adds an attribute.
    fn with(mut self, kind: u16, value: &[u8]) -> Message {
        let attribute = DefaultNla::new(kind, value.to_vec());
        let mut bytes = vec![0; attribute.buffer_len()];
        attribute.emit(&mut bytes);
        self.body.append(&mut bytes);
        self
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.body.len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.body);
    }
}

impl NetlinkDeserializable for Message {
    type Error = Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> std::result::Result<Message, Infallible> {
        Ok(Message { kind: header.message_type, body: payload.to_vec() })
    }
}

impl Link {
    fn parse(message: &Message) -> Option<Link> {
        let (fixed, rest) = message.body.split_at_checked(IFINFOMSG)?;
        let number = |offset: usize| parse_i32(fixed.get(offset..offset + 4)?).ok();
        let properties = attributes(rest).find(|(kind, _)| *kind == libc::IFLA_PROP_LIST).map(|(_, value)| value);
        let alternatives = attributes(properties.unwrap_or_default())
            .filter(|(kind, _)| *kind == libc::IFLA_ALT_IFNAME)
            .filter_map(|(_, value)| CStr::from_bytes_until_nul(value).ok().map(CStr::to_owned))
            .collect();
        Some(Link {
            index: number(INDEX)?,
            name: string(rest, libc::IFLA_IFNAME)?,
            alternatives,
            up: number(8)? & libc::IFF_UP != 0,
        })
    }

    /// Whether a new device could not be called this any more.
    pub fn occupies(&self, name: &CStr) -> bool {
        self.name.as_c_str() == name || self.alternatives.iter().any(|alternative| alternative.as_c_str() == name)
    }
}

impl Address {
    /// A byte of the ifaddrmsg.
    fn byte(&self, offset: usize) -> Option<u8> {
        self.0.body.get(offset).copied()
    }

    /// The index of the device that has it.
    pub fn index(&self) -> Option<i32> {
        parse_i32(self.0.body.get(INDEX..INDEX + 4)?).ok()
    }

    /// Whether it is valid everywhere (RT_SCOPE_UNIVERSE) and for good (IFA_F_PERMANENT), as the specification has it.
    pub fn is_global_and_permanent(&self) -> bool {
        let permanent = libc::IFA_F_PERMANENT as u8;
        self.byte(2).is_some_and(|flags| flags & permanent != 0) && self.byte(3) == Some(libc::RT_SCOPE_UNIVERSE)
    }

    /// The same for a device of another name: the label of an IPv4 address begins with that (`eth0`, `eth0:1`).
    pub fn relabelled(&self, old: &CStr, new: &CStr) -> Address {
        let (fixed, rest) = self.0.body.split_at_checked(IFADDRMSG).unwrap_or_default();
        let message = Message { kind: self.0.kind, body: fixed.to_vec() };
        Address(attributes(rest).fold(message, |message, (kind, value)| match value.strip_prefix(old.to_bytes()) {
            Some(suffix) if kind == libc::IFA_LABEL => match [new.to_bytes(), suffix].concat() {
                label if label.len() <= libc::IFNAMSIZ => message.with(kind, &label),
                // Without a label it gets the name of the device.
                _ => message,
            },
            _ => message.with(kind, value),
        }))
    }
}
