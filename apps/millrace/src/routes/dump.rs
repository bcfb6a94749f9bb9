//! Questions to rtnetlink that are answered with lists.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// What was going on changed what was listed; the list is to be asked for anew (linux/netlink.h).
const NLM_F_DUMP_INTR: u16 = 0x10;
/// How often a list that changes is asked for.
const TRIES: usize = 8;
/// Most bytes of one list: a full table of the Internet's routes has a tenth.
const LIST_MAX: usize = 2 << 30;

/// All that the kernel tells.
#[derive(Debug, Default)]
pub struct Everything {
    pub links: Vec<LinkMessage>,
    pub addresses: Vec<AddressMessage>,
    pub routes: Vec<RouteMessage>,
    pub rules: Vec<RuleMessage>,
    pub neighbours: Vec<NeighbourMessage>,
}

/// A socket for questions.
#[derive(Debug)]
pub struct Questions(Socket);

impl Questions {
    /// Opens it, in the network namespace of this thread.
    pub fn open() -> io::Result<Questions> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Questions(socket))
    }

    /// Asks for all there is.
    pub fn everything(&self) -> io::Result<Everything> {
        let mut all = Everything::default();
        for answer in self.ask(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            if let RouteNetlinkMessage::NewLink(link) = answer {
                all.links.push(link);
            }
        }
        for answer in self.ask(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(address) = answer {
                all.addresses.push(address);
            }
        }
        for answer in self.ask(RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()))? {
            if let RouteNetlinkMessage::NewNeighbour(neighbour) = answer {
                all.neighbours.push(neighbour);
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut routes = RouteMessage::default();
            routes.header.address_family = family;
            for answer in self.ask(RouteNetlinkMessage::GetRoute(routes))? {
                if let RouteNetlinkMessage::NewRoute(route) = answer {
                    all.routes.push(route);
                }
            }
            let mut rules = RuleMessage::default();
            rules.header.family = family;
            for answer in self.ask(RouteNetlinkMessage::GetRule(rules))? {
                if let RouteNetlinkMessage::NewRule(rule) = answer {
                    all.rules.push(rule);
                }
            }
        }
        Ok(all)
    }

    /// One list; asked for again when it changed meanwhile.
    fn ask(&self, question: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..TRIES {
            if let Some(list) = self.ask_once(question.clone())? {
                return Ok(list);
            }
        }
        Err(io::Error::other("a list changed each time it was asked for"))
    }

    fn ask_once(&self, question: RouteNetlinkMessage) -> io::Result<Option<Vec<RouteNetlinkMessage>>> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0)?;

        let mut list = Vec::new();
        let (mut interrupted, mut seen) = (false, 0);
        loop {
            let (bytes, _) = self.0.recv_from_full()?;
            seen += bytes.len();
            if seen > LIST_MAX {
                return Err(io::Error::other("a list does not end"));
            }
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let header = rest.first_chunk::<16>().ok_or_else(cut)?;
                let len = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let flags = u16::from_ne_bytes([header[6], header[7]]);
                let one = rest.get(..len).filter(|_| len >= 16).ok_or_else(cut)?;
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                interrupted |= flags & NLM_F_DUMP_INTR != 0;
                // What this library cannot read (a kind of tunnel made yesterday) must not cost the rest.
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) else {
                    tracing::debug!("an entry of the kernel's tables is not understood and left out");
                    continue;
                };
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok((!interrupted).then_some(list)),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(entry) => list.push(entry),
                    _ => {}
                }
            }
        }
    }
}

fn cut() -> io::Error {
    io::Error::other("the kernel's answer is cut short")
}
