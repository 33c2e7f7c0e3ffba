//! Commands to the kernel's NBD client (`linux/nbd-netlink.h`), over generic netlink (`linux/genetlink.h`).
//!
//! ```text
//!  nlmsghdr   length u32, type u16, flags u16, sequence u32, port u32
//!  genlmsghdr command u8, version u8, reserved u16
//!  attributes length u16, type u16, value, zeros up to a multiple of 4; may be nested
//! ```
//! All numbers are in the machine's byte order.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::netlink::{GENERIC, SocketAddrNetlink};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with,
};

const HEADER: usize = 16;
const GENERIC_HEADER: usize = 4;
/// The message asks, and wants to hear how it went.
const REQUEST_WITH_ACK: u16 = 1 | 4;
const MESSAGE_ERROR: u16 = 2;
/// The family of families.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const CONNECT: u8 = 1;
const DISCONNECT: u8 = 2;
const RECONFIGURE: u8 = 3;
const INDEX: u16 = 1;
const SIZE_BYTES: u16 = 2;
const BLOCK_SIZE_BYTES: u16 = 3;
const TIMEOUT: u16 = 4;
const SERVER_FLAGS: u16 = 5;
const SOCKETS: u16 = 7;
const DEAD_CONN_TIMEOUT: u16 = 8;
const BACKEND_IDENTIFIER: u16 = 10;
const SOCK_ITEM: u16 = 1;
const SOCK_FD: u16 = 1;

/// The kernel answers at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);

/// What the kernel's client is told about a device.
pub struct Node<'a> {
    /// `/dev/nbdN`.
    pub index: u32,
    /// Bytes.
    pub size: u64,
    /// The export's transmission flags.
    pub flags: u16,
    /// A connection in the transmission phase.
    pub socket: BorrowedFd<'a>,
    /// Who it is; a new connection must say the same.
    pub identifier: &'a str,
    /// A request without an answer for so long is sent again, on a new connection.
    pub request_timeout: Duration,
    /// Requests wait so long for a new connection.
    pub reconnect_timeout: Duration,
}

/// The way to the kernel's NBD client.
pub struct Netlink {
    socket: OwnedFd,
    family: u16,
}

impl Netlink {
    /// Finds the family `nbd`: `NotFound` where the module is not loaded.
    pub fn open() -> io::Result<Self> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(GENERIC),
        )?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWERS_WITHIN))?;
        let mut netlink = Self {
            socket,
            family: CONTROL,
        };
        let answer = netlink.ask(GET_FAMILY, Attributes::default().put(FAMILY_NAME, b"nbd\0"))?;
        let found = attribute(&answer, FAMILY_ID).and_then(|v| Some(u16::from_ne_bytes(*v.first_chunk()?)));
        netlink.family =
            found.ok_or_else(|| io::Error::other("the kernel names no number for the family nbd"))?;
        Ok(netlink)
    }

    /// Makes a device that is not connected, with this connection.
    pub fn connect(&self, node: &Node<'_>) -> io::Result<()> {
        let attributes = attributes(node)
            .number(BLOCK_SIZE_BYTES, 512)
            .number(SERVER_FLAGS, node.flags.into());
        self.ask(CONNECT, attributes).map(drop)
    }

    /// Gives a device a new connection in the place of a dead one, and its present size. The kernel says yes, too, if none is
    /// dead; it then does not keep the connection.
    pub fn reconnect(&self, node: &Node<'_>) -> io::Result<()> {
        self.ask(RECONFIGURE, attributes(node)).map(drop)
    }

    /// Tells the size of a device that has grown.
    pub fn resize(&self, index: u32, size: u64, identifier: &str) -> io::Result<()> {
        let attributes = Attributes::default()
            .put(INDEX, &index.to_ne_bytes())
            .number(SIZE_BYTES, size)
            .put(BACKEND_IDENTIFIER, &with_zero(identifier));
        self.ask(RECONFIGURE, attributes).map(drop)
    }

    /// Takes a device away; requests that wait fail.
    pub fn disconnect(&self, index: u32) -> io::Result<()> {
        let attributes = Attributes::default().put(INDEX, &index.to_ne_bytes());
        self.ask(DISCONNECT, attributes).map(drop)
    }

    /// Sends a command and waits for the kernel's word; the attributes of its answer, if it has one.
    fn ask(&self, command: u8, attributes: Attributes) -> io::Result<Vec<u8>> {
        let len = HEADER + GENERIC_HEADER + attributes.0.len();
        let mut message = Vec::with_capacity(len);
        message.extend(u32::try_from(len).map_err(io::Error::other)?.to_ne_bytes());
        message.extend(self.family.to_ne_bytes());
        message.extend(REQUEST_WITH_ACK.to_ne_bytes());
        message.extend([0; 8]);
        message.extend([command, 1, 0, 0]);
        message.extend(attributes.0);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut answer = Vec::new();
        loop {
            let mut buffer = [0; 16 << 10];
            let (len, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
            let mut rest = &buffer[..len];
            while let Some((kind, body, next)) = message_of(rest) {
                if kind == MESSAGE_ERROR {
                    let code = body
                        .first_chunk()
                        .map_or(-libc::EPROTO, |b| i32::from_ne_bytes(*b));
                    if code != 0 {
                        return Err(io::Error::from_raw_os_error(-code));
                    }
                    return Ok(answer);
                }
                answer = body.get(GENERIC_HEADER..).unwrap_or_default().to_vec();
                rest = next;
            }
        }
    }
}

fn with_zero(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

fn attributes(node: &Node<'_>) -> Attributes {
    let fd = u32::try_from(node.socket.as_raw_fd()).unwrap_or(u32::MAX);
    let descriptor = Attributes::default().put(SOCK_FD, &fd.to_ne_bytes());
    let item = Attributes::default().put(SOCK_ITEM, &descriptor.0);
    Attributes::default()
        .put(INDEX, &node.index.to_ne_bytes())
        .number(SIZE_BYTES, node.size)
        .number(TIMEOUT, node.request_timeout.as_secs())
        .number(DEAD_CONN_TIMEOUT, node.reconnect_timeout.as_secs())
        .put(BACKEND_IDENTIFIER, &with_zero(node.identifier))
        .put(SOCKETS, &item.0)
}

/// Attributes, one after another.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn put(mut self, kind: u16, value: &[u8]) -> Self {
        // Ours are all short.
        let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(len.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn number(self, kind: u16, value: u64) -> Self {
        self.put(kind, &value.to_ne_bytes())
    }
}

/// The first message: its type, what follows its header, and what follows it.
fn message_of(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, next))
}

/// The value of the first attribute of a kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(len.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_behind_others_and_never_behind_the_end() {
        let bytes = Attributes::default().put(7, b"abc").number(9, 5).0;
        assert_eq!((bytes.len(), attribute(&bytes, 7)), (20, Some(&b"abc"[..])));
        assert_eq!(attribute(&bytes, 9), Some(&5_u64.to_ne_bytes()[..]));
        assert_eq!(attribute(&bytes, 8), None);
        for len in 0..bytes.len() {
            assert_eq!(attribute(&bytes[..len], 9), None, "{len}");
        }
        // A length of nothing does not go round in circles.
        assert_eq!(attribute(&[0; 8], 1), None);
    }

    #[test]
    fn this_kernel_answers_for_a_family_that_it_has_or_says_that_it_has_not() {
        match Netlink::open() {
            Ok(netlink) => assert_ne!(netlink.family, CONTROL),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound, "{error}"),
        }
    }
}
