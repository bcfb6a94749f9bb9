//! rtnetlink: what the host's stack is asked and told. One question, one answer, nothing waits.

use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, CacheInfo};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, protocols::NETLINK_ROUTE};
use thiserror::Error;

/// The kernel answers a request before the send returns.
const MSG_DONTWAIT: i32 = 0x40;

/// Why the host's stack did not answer or act.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("netlink: {0}")]
pub struct NetlinkError(pub String);

fn broken(why: impl ToString) -> NetlinkError {
    NetlinkError(why.to_string())
}

/// Where packets to an address leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By an interface (its index), directly or through a router.
    Out(u32, Option<IpAddr>),
    /// The address is this host's.
    Local,
    /// Nowhere.
    None,
}

/// A socket in the network namespace of the thread that opened it.
pub struct Netlink(Socket);

impl Netlink {
    /// Opens the socket.
    pub fn open() -> Result<Netlink, NetlinkError> {
        Socket::new(NETLINK_ROUTE).map(Netlink).map_err(broken)
    }

    /// The route to an address.
    pub fn route(&self, address: IpAddr) -> Result<Route, NetlinkError> {
        let mut ask = RouteMessage::default();
        ask.header.address_family = family(address);
        ask.header.destination_prefix_length = bits(address);
        ask.attributes.push(RouteAttribute::Destination(match address {
            IpAddr::V4(v4) => RouteAddress::Inet(v4),
            IpAddr::V6(v6) => RouteAddress::Inet6(v6),
        }));
        let Some(RouteNetlinkMessage::NewRoute(route)) = self.ask(RouteNetlinkMessage::GetRoute(ask), 0)?
        else {
            return Ok(Route::None);
        };
        let mut interface = None;
        let mut router = None;
        for attribute in route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => interface = Some(index),
                RouteAttribute::Gateway(RouteAddress::Inet(v4)) => router = Some(IpAddr::V4(v4)),
                RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => router = Some(IpAddr::V6(v6)),
                _ => {}
            }
        }
        Ok(match (route.header.kind, interface) {
            (RouteType::Unicast, Some(interface)) => Route::Out(interface, router),
            (RouteType::Local, _) => Route::Local,
            _ => Route::None,
        })
    }

    /// MAC of a neighbour, and whether the host holds it for fresh.
    pub fn neighbour(&self, hop: IpAddr, interface: u32) -> Result<Option<([u8; 6], bool)>, NetlinkError> {
        let mut ask = NeighbourMessage::default();
        ask.header.family = family(hop);
        ask.header.ifindex = interface;
        ask.attributes.push(NeighbourAttribute::Destination(match hop {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        }));
        let answer = self.ask(RouteNetlinkMessage::GetNeighbour(ask), 0)?;
        let Some(RouteNetlinkMessage::NewNeighbour(entry)) = answer else {
            return Ok(None);
        };
        let fresh = match entry.header.state {
            NeighbourState::Reachable | NeighbourState::Permanent | NeighbourState::Noarp => true,
            NeighbourState::Stale | NeighbourState::Delay | NeighbourState::Probe => false,
            _ => return Ok(None),
        };
        let mac = entry
            .attributes
            .into_iter()
            .find_map(|attribute| match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => <[u8; 6]>::try_from(bytes).ok(),
                _ => None,
            });
        Ok(mac.filter(|mac| mac != &[0; 6]).map(|mac| (mac, fresh)))
    }

    /// Gives an interface an address; there already is fine. A `service` address is for answering only: no packet of the
    /// host's own takes it as source (IPv6: it is deprecated; IPv4: a /32 is no route's source).
    pub fn add_address(
        &self,
        interface: u32,
        address: IpAddr,
        prefix: u8,
        service: bool,
    ) -> Result<(), NetlinkError> {
        let mut message = address_message(interface, address, prefix);
        if address.is_ipv6() {
            // No waiting for duplicate address detection: the VIP is on the backends too.
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        if service && address.is_ipv6() {
            let mut life = CacheInfo::default();
            (life.ifa_preferred, life.ifa_valid) = (0, u32::MAX);
            message.attributes.push(AddressAttribute::CacheInfo(life));
        }
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        match self.exchange(RouteNetlinkMessage::NewAddress(message), flags)? {
            Ok(_) => Ok(()),
            Err(refusal) => Err(broken(refusal)),
        }
    }

    /// Takes an address away; not there is fine.
    pub fn remove_address(&self, interface: u32, address: IpAddr, prefix: u8) -> Result<(), NetlinkError> {
        self.ask(
            RouteNetlinkMessage::DelAddress(address_message(interface, address, prefix)),
            NLM_F_ACK,
        )
        .map(drop)
    }

    /// None: the kernel knows no such thing, or has nothing to say.
    fn ask(
        &self,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        match self.exchange(question, flags)? {
            Ok(answer) => Ok(answer),
            Err(refusal) if is_absent(&refusal) => Ok(None),
            Err(refusal) => Err(broken(refusal)),
        }
    }

    /// The kernel's answer or its refusal; the outer error is about the way there.
    fn exchange(
        &self,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<io::Result<Option<RouteNetlinkMessage>>, NetlinkError> {
        let mut message = NetlinkMessage::from(question);
        message.header.flags = NLM_F_REQUEST | flags;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.0.send(&bytes, 0).map_err(broken)?;

        let mut answer = Vec::with_capacity(8192);
        self.0.recv(&mut answer, MSG_DONTWAIT).map_err(broken)?;
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map_err(broken)?
            .payload
        {
            NetlinkPayload::InnerMessage(inner) => Ok(Ok(Some(inner))),
            NetlinkPayload::Error(error) => Ok(match error.code {
                None => Ok(None),
                Some(code) => Err(io::Error::from_raw_os_error(-code.get())),
            }),
            _ => Ok(Ok(None)),
        }
    }
}

/// No such neighbour, no route, no such address.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable, NotFound};
    matches!(
        error.kind(),
        AddrNotAvailable | HostUnreachable | NetworkUnreachable | NotFound
    )
}

fn address_message(interface: u32, address: IpAddr, prefix: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address);
    message.header.prefix_len = prefix;
    message.header.index = interface;
    message.attributes.push(AddressAttribute::Local(address));
    message.attributes.push(AddressAttribute::Address(address));
    message
}

/// Index of an interface.
pub fn interface_index(name: &str) -> Result<u32, NetlinkError> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(broken)?;
    rustix::net::netdevice::name_to_index(&socket, name)
        .map_err(|why| broken(format!("interface {name}: {why}")))
}

/// Length of an address in bits.
pub fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}
