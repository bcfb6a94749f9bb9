//! `gen:SPEC`: a traffic generator; what the model sends back is counted and swallowed.
//!
//! All frames are built when the wire is opened, one a flow, in an order shuffled by the seed; receiving is then a step
//! through one block of memory. Flows differ in source address and source port.

use super::{MAX_FRAME, SendOutcome, Wire, WireError};
use crate::packet::build::Frame;
use crate::packet::segment::tcp_flags;
use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::str::FromStr;
use std::time::{Duration, Instant};

const USAGE: &str = "gen:PROTO[,KEY=VALUE]... with PROTO udp4, udp6, tcp4 or tcp6 and the keys flows (1000), size (frame \
     bytes with FCS, 64), dst (10.0.0.1 or 2001:db8::1), dport (80), src (first source address, 10.1.0.1 or \
     2001:db8:1::1), smac, dmac, vlan, flags (syn or ack, of TCP: ack), rate (frames a second, 0 = as fast as asked), count (frames in all, 0 = no end), \
     seed (1)";
/// Source addresses used before the next source port is taken.
const ADDRESSES: u64 = 250;
/// Source ports from 1024 up.
const PORTS: u64 = 64_000;
/// The most memory that the frames may take.
const MAX_MEMORY: usize = 1 << 30;
/// FCS bytes, in `size` but not in the frame.
const FCS: usize = 4;
/// A rate-limited generator looks at the clock once in this many calls that give nothing.
const CLOCK_EVERY: u32 = 8;
/// The part of a second by which a rate-limited generator may be behind.
const CATCH_UP: u64 = 10;

/// What to generate; [`GenSpec::parse`] reads it from a wire string.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GenSpec {
    /// TCP rather than UDP.
    pub tcp: bool,
    /// TCP frames open connections (SYN set) rather than belong to one (ACK set).
    pub syn: bool,
    /// Number of distinct flows.
    pub flows: u64,
    /// Frame length in bytes with FCS; raised to the shortest that holds the headers.
    pub size: usize,
    /// Destination address; decides the IP version.
    pub dst: IpAddr,
    /// Destination port.
    pub dport: u16,
    /// The first source address; up to 250 follow it.
    pub src: IpAddr,
    /// Source MAC address.
    pub smac: [u8; 6],
    /// Destination MAC address.
    pub dmac: [u8; 6],
    /// VLAN tag (TCI).
    pub vlan: Option<u16>,
    /// Frames a second, 0 for no limit.
    pub rate: u64,
    /// Frames in all, 0 for no end.
    pub count: u64,
    /// Order of the flows.
    pub seed: u64,
}

impl GenSpec {
    /// The defaults for IPv4 or IPv6, UDP or TCP.
    pub fn new(v6: bool, tcp: bool) -> GenSpec {
        let (dst, src) = if v6 {
            (
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
                IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1)),
            )
        } else {
            (
                IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)),
                IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1)),
            )
        };
        GenSpec {
            tcp,
            syn: false,
            flows: 1000,
            size: 64,
            dst,
            dport: 80,
            src,
            smac: [0x02, 0, 0, 0, 0, 0x01],
            dmac: [0x02, 0, 0, 0, 0, 0x02],
            vlan: None,
            rate: 0,
            count: 0,
            seed: 1,
        }
    }

    /// Reads what follows `gen:`.
    pub fn parse(spec: &str, rest: &str) -> Result<GenSpec, WireError> {
        let malformed = |problem: String| WireError::Malformed {
            spec: spec.to_owned(),
            problem,
            usage: USAGE,
        };
        let mut words = rest.split(',');
        let proto = words.next().unwrap_or("");
        let mut gen_spec = match proto {
            "udp4" => GenSpec::new(false, false),
            "tcp4" => GenSpec::new(false, true),
            "udp6" => GenSpec::new(true, false),
            "tcp6" => GenSpec::new(true, true),
            _ => return Err(malformed(format!("unknown protocol {proto:?}"))),
        };
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| malformed(format!("{word:?} is not KEY=VALUE")))?;
            gen_spec.set(key, value).map_err(malformed)?;
        }
        gen_spec.check().map_err(malformed)?;
        Ok(gen_spec)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "flows" => self.flows = number(key, value)?,
            "size" => self.size = number(key, value)?,
            "dst" => self.dst = number(key, value)?,
            "dport" => self.dport = number(key, value)?,
            "src" => self.src = number(key, value)?,
            "smac" => self.smac = mac(key, value)?,
            "dmac" => self.dmac = mac(key, value)?,
            "vlan" => self.vlan = Some(number(key, value)?),
            "flags" => {
                self.syn = match value {
                    "syn" => true,
                    "ack" => false,
                    _ => return Err(format!("flags={value} is neither syn nor ack")),
                }
            }
            "rate" => self.rate = number(key, value)?,
            "count" => self.count = number(key, value)?,
            "seed" => self.seed = number(key, value)?,
            _ => return Err(format!("unknown key {key:?}")),
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if self.dst.is_ipv4() != self.src.is_ipv4() {
            return Err(format!(
                "dst={} and src={} are of different IP versions",
                self.dst, self.src
            ));
        }
        if self.flows == 0 || self.flows > ADDRESSES * PORTS {
            return Err(format!(
                "flows={} is not between 1 and {}",
                self.flows,
                ADDRESSES * PORTS
            ));
        }
        if self.size < 64 || self.size > MAX_FRAME + FCS {
            return Err(format!(
                "size={} is not between 64 and {}",
                self.size,
                MAX_FRAME + FCS
            ));
        }
        if self.vlan.is_some_and(|tci| tci & 0xfff == 0xfff) {
            return Err("vlan=4095 is reserved".to_owned());
        }
        let memory = (self.flows as usize).saturating_mul(self.size.max(128));
        if memory > MAX_MEMORY {
            return Err(format!(
                "flows={} of size={} need {} MiB, more than 1 GiB",
                self.flows,
                self.size,
                memory >> 20
            ));
        }
        Ok(())
    }

    /// The frame of one flow, without FCS.
    pub fn frame(&self, flow: u64) -> Vec<u8> {
        let sport = 1024 + (flow / ADDRESSES % PORTS) as u16;
        let src = match self.src {
            IpAddr::V4(src) => IpAddr::V4(u32::from(src).wrapping_add((flow % ADDRESSES) as u32).into()),
            IpAddr::V6(src) => IpAddr::V6(u128::from(src).wrapping_add(u128::from(flow % ADDRESSES)).into()),
        };
        let mut frame = Frame::new().macs(self.smac, self.dmac);
        if let Some(tci) = self.vlan {
            frame = frame.vlan(tci);
        }
        frame = frame.ip(src, self.dst);
        frame = match (self.tcp, self.syn) {
            (true, false) => frame.tcp(sport, self.dport),
            (true, true) => frame
                .tcp(sport, self.dport)
                .seq(flow as u32, 0)
                .flags(tcp_flags::SYN),
            (false, _) => frame.udp(sport, self.dport),
        };
        let headers = frame.build().len();
        frame
            .payload(&vec![0x5a; (self.size - FCS).saturating_sub(headers)])
            .build()
    }
}

/// Any value that parses from a string.
fn number<T: FromStr<Err: Display>>(key: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|error| format!("{key}={value}: {error}"))
}

fn mac(key: &str, value: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = value.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        *byte = part
            .and_then(|part| u8::from_str_radix(part, 16).ok())
            .ok_or_else(|| format!("{key}={value} is not a MAC address like 02:00:00:00:00:01"))?;
    }
    match parts.next() {
        None => Ok(mac),
        Some(_) => Err(format!(
            "{key}={value} is not a MAC address like 02:00:00:00:00:01"
        )),
    }
}

/// The wire `gen:SPEC`.
pub struct GenWire {
    /// All frames, each `len` bytes, `stride` apart.
    frames: Vec<u8>,
    len: usize,
    stride: usize,
    /// Offset of the next frame.
    next: usize,
    made: u64,
    /// No frame after this many.
    limit: u64,
    pace: Option<Pace>,
    sent: u64,
    sent_bytes: u64,
}

/// How far a rate limit lets the generator go.
struct Pace {
    rate: u64,
    start: Option<Instant>,
    allowed: u64,
    skip: u32,
}

impl GenWire {
    /// Reads the spec and builds the frames.
    pub fn open(spec: &str, rest: &str) -> Result<GenWire, WireError> {
        Ok(GenWire::new(&GenSpec::parse(spec, rest)?))
    }

    /// Builds the frames of a spec; what a spec made by hand asks beyond the limits is cut to them.
    pub fn new(spec: &GenSpec) -> GenWire {
        let mut order: Vec<u64> = (0..spec.flows.clamp(1, ADDRESSES * PORTS)).collect();
        let mut random = spec.seed.max(1);
        for i in (1..order.len()).rev() {
            // xorshift64 (Marsaglia 2003); a slight bias does not matter for an order.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            order.swap(i, (random % (i as u64 + 1)) as usize);
        }
        let len = spec.frame(0).len();
        let stride = len.next_multiple_of(64);
        let mut frames = vec![0; stride * order.len()];
        for (slot, flow) in frames.chunks_exact_mut(stride).zip(order) {
            let frame = spec.frame(flow);
            slot[..frame.len()].copy_from_slice(&frame);
        }
        GenWire {
            frames,
            len,
            stride,
            next: 0,
            made: 0,
            limit: if spec.count == 0 { u64::MAX } else { spec.count },
            pace: (spec.rate > 0).then_some(Pace {
                rate: spec.rate,
                start: None,
                allowed: 0,
                skip: 0,
            }),
            sent: 0,
            sent_bytes: 0,
        }
    }

    /// Frames made and frames swallowed so far.
    pub fn progress(&self) -> (u64, u64) {
        (self.made, self.sent)
    }
}

impl Pace {
    /// How long so many frames take.
    fn takes(&self, frames: u64) -> Duration {
        let nanos = u128::from(frames) * 1_000_000_000 / u128::from(self.rate.max(1));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    /// Whether frame number `made` is due.
    fn due(&mut self, made: u64) -> bool {
        if made < self.allowed {
            return true;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let start = *self.start.get_or_insert_with(Instant::now);
        let nanos = u128::from(self.rate) * start.elapsed().as_nanos();
        self.allowed = (nanos / 1_000_000_000) as u64 + 1; // the first frame is due at once
        // What nobody asked for in time is not made up for in one burst.
        let most = made + self.rate / CATCH_UP + 1;
        if let Some(late) = self.allowed.checked_sub(most) {
            self.start = Some(start + self.takes(late));
            self.allowed = most;
        }
        self.skip = CLOCK_EVERY;
        made < self.allowed
    }
}

impl Wire for GenWire {
    #[inline]
    fn recv(&mut self) -> io::Result<Option<&[u8]>> {
        if self.made >= self.limit || self.pace.as_mut().is_some_and(|pace| !pace.due(self.made)) {
            return Ok(None);
        }
        self.made += 1;
        let at = self.next;
        self.next = if at + self.stride == self.frames.len() {
            0
        } else {
            at + self.stride
        };
        Ok(self.frames.get(at..at + self.len))
    }

    #[inline]
    fn send(&mut self, frame: &[u8]) -> io::Result<SendOutcome> {
        self.sent += 1;
        self.sent_bytes += frame.len() as u64;
        Ok(SendOutcome::Sent)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn link_up(&self) -> bool {
        true
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn is_source(&self) -> bool {
        self.made < self.limit
    }

    fn due(&self) -> Option<Instant> {
        let pace = self.pace.as_ref()?;
        pace.start?.checked_add(pace.takes(pace.allowed))
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        vec![
            ("wire_recv_frames", self.made),
            ("wire_send_frames", self.sent),
            ("wire_send_bytes", self.sent_bytes),
        ]
    }
}
