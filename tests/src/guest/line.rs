//! The far end of a guest's wire, as a helper that scenarios talk to over the guest's second serial line.
//!
//! A scenario writes one line of words to `/dev/ttyS1` and reads one back: `ok ...` or `error ...`. The helper runs in
//! the peer's namespace and puts frames on the wire that no kernel there would make (tags of VLANs that it does not
//! know, wrong checksums, flows of chosen five-tuples), without the traffic that a request over the network would add.
//!
//! | request | answer |
//! |---|---|
//! | `send FRAMES` | how many frames went out |
//! | `echo FRAMES` | how many of them came back, by ICMP echo or sent back as they are, with the tag they had |
//! | `rss KEY RETA FIELDS FRAMES` | sends, and says how many frames belong on each queue: `QUEUE:COUNT ...` |
//! | `model COUNTER...` | what the model counts under these names |
//!
//! FRAMES are words `key=value`: see [`Frames`].

use super::LabError;
use millrace_nic_models::packet::{self, L4, build::Frame};
use millrace_nic_models::toeplitz;
use millrace_nic_models::wire::{self, Wire};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long an answer to the last frame may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Frames sent before the receiver is given time to take them: fewer than the smallest ring in use holds.
const BURST: usize = 32;
const PAUSE: Duration = Duration::from_millis(2);
/// The start of each payload, followed by a number that is new for each request.
const MARK: &[u8; 8] = b"millrace";

/// What to send: `flows` flows of `each` frames.
#[derive(Debug, Clone)]
struct Frames {
    /// `proto`: udp4, tcp4, icmp4, udp6, tcp6.
    proto: String,
    /// `src`, `dst`: addresses; the guest's and the peer's when not given.
    src: IpAddr,
    dst: IpAddr,
    /// `sport`, `dport`: ports.
    sport: u16,
    dport: u16,
    /// `vary`: what distinguishes the flows, the source `port` or the source `addr`; both count up.
    by_address: bool,
    flows: u16,
    each: u16,
    /// `vlan`: a tag's VLAN id.
    vlan: Option<u16>,
    /// `bad=l4` makes the checksum wrong.
    bad: bool,
    /// `size`: payload bytes.
    size: usize,
}

/// What a helper is started with.
#[derive(Debug)]
pub struct Ends {
    /// The interface at the peer's end of the wire.
    pub interface: String,
    /// The peer's MAC address, and the guest's.
    pub macs: ([u8; 6], [u8; 6]),
    /// What the model writes its counters to.
    pub model_log: PathBuf,
}

/// Serves one guest until it hangs up.
pub fn serve(socket: &Path, ends: &Ends) -> Result<(), LabError> {
    let listener =
        UnixListener::bind(socket).map_err(LabError::io(format!("listening on {}", socket.display())))?;
    let (mut stream, _) = listener.accept().map_err(LabError::io("waiting for the guest"))?;
    let lines = BufReader::new(
        stream
            .try_clone()
            .map_err(LabError::io("the guest's serial line"))?,
    );
    let mut serial = 0u32;
    for line in lines.lines() {
        let line = line.map_err(LabError::io("reading the guest's serial line"))?;
        serial += 1;
        let answer = match answer(&line, ends, serial) {
            Ok(text) => format!("ok {text}"),
            Err(text) => format!("error {text}"),
        };
        writeln!(stream, "{answer}").map_err(LabError::io("answering on the guest's serial line"))?;
    }
    Ok(())
}

fn answer(line: &str, ends: &Ends, serial: u32) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["send", spec @ ..] => {
            let frames = Frames::parse(spec)?;
            let mut wire = open(ends)?;
            Ok(frames.send(&mut *wire, ends, serial, |_, _| {})?.to_string())
        }
        ["echo", spec @ ..] => {
            let frames = Frames::parse(spec)?;
            let mut wire = open(ends)?;
            let mut back = 0;
            let sent = frames.send(&mut *wire, ends, serial, |frame, mark| {
                back += usize::from(frames.came_back(frame, ends, mark));
            })?;
            let deadline = Instant::now() + PATIENCE;
            while back < sent && Instant::now() < deadline {
                let mark = mark(serial);
                take(&mut *wire, |frame| {
                    back += usize::from(frames.came_back(frame, ends, &mark))
                })?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(back.to_string())
        }
        ["rss", key, reta, fields, spec @ ..] => {
            let frames = Frames::parse(spec)?;
            let expected = frames.queues(&parse_key(key)?, &parse_reta(reta)?, fields)?;
            let mut wire = open(ends)?;
            frames.send(&mut *wire, ends, serial, |_, _| {})?;
            let list: Vec<String> = expected.iter().map(|(q, n)| format!("{q}:{n}")).collect();
            Ok(list.join(" "))
        }
        ["model", names @ ..] => model_counters(&ends.model_log, names),
        _ => Err(format!("unknown request `{line}`")),
    }
}

fn open(ends: &Ends) -> Result<Box<dyn Wire>, String> {
    wire::open(&format!("packet:{}", ends.interface)).map_err(|e| e.to_string())
}

/// Hands over every frame that waits.
fn take(wire: &mut dyn Wire, mut seen: impl FnMut(&[u8])) -> Result<(), String> {
    while let Some(frame) = wire.recv().map_err(|e| e.to_string())? {
        seen(frame);
    }
    Ok(())
}

fn mark(serial: u32) -> [u8; 12] {
    let mut mark = [0; 12];
    mark[..8].copy_from_slice(MARK);
    mark[8..].copy_from_slice(&serial.to_be_bytes());
    mark
}

impl Frames {
    fn parse(words: &[&str]) -> Result<Self, String> {
        let mut given: BTreeMap<&str, &str> = BTreeMap::new();
        for word in words {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| format!("`{word}` is not key=value"))?;
            given.insert(key, value);
        }
        fn number<T: std::str::FromStr>(text: Option<&str>, default: T) -> Result<T, String> {
            text.map_or(Ok(default), |t| {
                t.parse().map_err(|_| format!("`{t}` is not a number in range"))
            })
        }
        fn address(text: Option<&str>, default: IpAddr) -> Result<IpAddr, String> {
            text.map_or(Ok(default), |t| t.parse().map_err(|e| format!("`{t}`: {e}")))
        }
        let proto = given.remove("proto").unwrap_or("udp4").to_owned();
        let v6 = proto.ends_with('6');
        let (src, dst) = if v6 {
            (super::model::PEER_V6, "fd55::2")
        } else {
            (super::model::PEER_V4, "10.55.0.2")
        };
        let parsed = |text: &str| text.parse::<IpAddr>().map_err(|e| format!("`{text}`: {e}"));
        let frames = Self {
            src: address(given.remove("src"), parsed(src)?)?,
            dst: address(given.remove("dst"), parsed(dst)?)?,
            sport: number(given.remove("sport"), 20_000)?,
            dport: number(given.remove("dport"), 9)?,
            by_address: given.remove("vary") == Some("addr"),
            flows: number(given.remove("flows"), 1)?,
            each: number(given.remove("each"), 1)?,
            vlan: given.remove("vlan").map(|t| number(Some(t), 0)).transpose()?,
            bad: given.remove("bad") == Some("l4"),
            size: number(given.remove("size"), 64)?,
            proto,
        };
        if let Some(key) = given.keys().next() {
            return Err(format!("unknown word `{key}=`"));
        }
        if frames.src.is_ipv6() != v6 || frames.dst.is_ipv6() != v6 {
            return Err(format!(
                "{} between {} and {}",
                frames.proto, frames.src, frames.dst
            ));
        }
        Ok(frames)
    }

    /// Source address and port of a flow.
    fn source(&self, flow: u16) -> (IpAddr, u16) {
        if !self.by_address {
            return (self.src, self.sport.wrapping_add(flow));
        }
        let address = match self.src {
            IpAddr::V4(a) => IpAddr::V4(Ipv4Addr::from(u32::from(a).wrapping_add(u32::from(flow)))),
            IpAddr::V6(a) => IpAddr::V6(Ipv6Addr::from(u128::from(a).wrapping_add(u128::from(flow)))),
        };
        (address, self.sport)
    }

    fn frame(&self, ends: &Ends, flow: u16, mark: &[u8; 12]) -> Result<Vec<u8>, String> {
        let (src, sport) = self.source(flow);
        let mut payload = mark.to_vec();
        payload.resize(self.size.max(mark.len()), 0x55);
        let mut frame = Frame::new().macs(ends.macs.0, ends.macs.1);
        if let Some(id) = self.vlan {
            frame = frame.vlan(id);
        }
        frame = frame.ip(src, self.dst);
        frame = match self.proto.as_str() {
            "udp4" | "udp6" => frame.udp(sport, self.dport),
            "tcp4" | "tcp6" => frame.tcp(sport, self.dport),
            "icmp4" => frame.ping(sport, flow),
            other => return Err(format!("protocol `{other}` is not known")),
        };
        if self.bad {
            frame = frame.bad_l4_checksum();
        }
        Ok(frame.payload(&payload).build())
    }

    /// Sends all; `seen` gets what arrives meanwhile.
    fn send(
        &self,
        wire: &mut dyn Wire,
        ends: &Ends,
        serial: u32,
        mut seen: impl FnMut(&[u8], &[u8; 12]),
    ) -> Result<usize, String> {
        let mark = mark(serial);
        let mut sent = 0;
        for _ in 0..self.each {
            for flow in 0..self.flows {
                let frame = self.frame(ends, flow, &mark)?;
                match wire.send(&frame).map_err(|e| e.to_string())? {
                    wire::SendOutcome::Sent => sent += 1,
                    wire::SendOutcome::Dropped => return Err(format!("the wire refused frame {sent}")),
                }
                if sent % BURST == 0 {
                    wire.flush().map_err(|e| e.to_string())?;
                    take(wire, |frame| seen(frame, &mark))?;
                    std::thread::sleep(PAUSE);
                }
            }
        }
        wire.flush().map_err(|e| e.to_string())?;
        Ok(sent)
    }

    /// Whether the guest sent this frame as its answer to one of ours: an echo reply, or the same frame turned round.
    fn came_back(&self, frame: &[u8], ends: &Ends, mark: &[u8; 12]) -> bool {
        let p = packet::parse(frame);
        let tag = p.tags().first().map(|tag| tag.tci & 0xfff);
        if frame.get(6..12) != Some(&ends.macs.1[..]) || tag != self.vlan {
            return false;
        }
        let answers = match p.l4 {
            L4::Icmp => self.proto == "icmp4" && frame.get(p.l4_off) == Some(&0),
            L4::Udp => self.proto.starts_with("udp") && p.dst_port(frame) == Some(self.dport),
            L4::Tcp => self.proto.starts_with("tcp") && p.dst_port(frame) == Some(self.dport),
            _ => false,
        };
        answers && frame.windows(mark.len()).any(|w| w == mark)
    }

    /// How many frames belong on each queue: Toeplitz over addresses, and ports where `fields` is `ports`, looked up in
    /// the indirection table.
    fn queues(
        &self,
        key: &[u8; toeplitz::KEY_LEN],
        reta: &[u16],
        fields: &str,
    ) -> Result<BTreeMap<u16, u32>, String> {
        let mut expected = BTreeMap::new();
        for flow in 0..self.flows {
            let (src, sport) = self.source(flow);
            let mut input = Vec::new();
            for address in [src, self.dst] {
                match address {
                    IpAddr::V4(a) => input.extend(a.octets()),
                    IpAddr::V6(a) => input.extend(a.octets()),
                }
            }
            match fields {
                "ports" => input.extend([sport.to_be_bytes(), self.dport.to_be_bytes()].concat()),
                "addresses" => {}
                other => return Err(format!("hash fields `{other}`: give `addresses` or `ports`")),
            }
            let hash = toeplitz::hash(key, &input) as usize;
            let queue = reta[hash % reta.len()];
            *expected.entry(queue).or_insert(0) += u32::from(self.each);
        }
        Ok(expected)
    }
}

/// A key as ethtool prints it: bytes in hex with colons.
fn parse_key(text: &str) -> Result<[u8; toeplitz::KEY_LEN], String> {
    let bytes: Result<Vec<u8>, _> = text.split(':').map(|b| u8::from_str_radix(b, 16)).collect();
    bytes
        .ok()
        .and_then(|b| b.try_into().ok())
        .ok_or_else(|| format!("`{text}` is not a key of {} bytes", toeplitz::KEY_LEN))
}

/// Queue numbers with commas; their number is a power of two.
fn parse_reta(text: &str) -> Result<Vec<u16>, String> {
    let queues: Result<Vec<u16>, _> = text.trim_end_matches(',').split(',').map(str::parse).collect();
    queues
        .ok()
        .filter(|q| q.len().is_power_of_two())
        .ok_or_else(|| format!("`{text}` is no indirection table"))
}

/// The model prints its counters now and then; the first line that it begins from now on has every event so far.
fn model_counters(log: &Path, names: &[&str]) -> Result<String, String> {
    let read = || std::fs::read_to_string(log).map_err(|e| format!("{}: {e}", log.display()));
    let from = read()?.len();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        let text = read()?;
        let fresh = text.get(from..).unwrap_or_default();
        let mut whole = fresh.split_inclusive('\n').filter(|l| l.ends_with('\n'));
        if let Some(line) = whole.find_map(|l| l.trim().strip_prefix("stats:")) {
            let counters: BTreeMap<&str, &str> = line
                .split_whitespace()
                .filter_map(|word| word.split_once('='))
                .collect();
            let values: Result<Vec<&str>, String> = names
                .iter()
                .map(|name| {
                    counters
                        .get(name)
                        .copied()
                        .ok_or_else(|| format!("the model has no counter `{name}`"))
                })
                .collect();
            return Ok(values?.join(" "));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err("the model prints no counters".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);

    fn ends() -> Ends {
        Ends {
            interface: "peer".into(),
            macs: ENDS,
            model_log: PathBuf::new(),
        }
    }

    #[test]
    fn a_request_becomes_the_frames_it_names() {
        let frames = Frames::parse(&["proto=tcp4", "dport=80", "flows=3", "vlan=5"]).unwrap();
        let frame = frames.frame(&ends(), 2, &mark(1)).unwrap();
        let p = packet::parse(&frame);
        assert_eq!(p.l4, L4::Tcp);
        assert_eq!((p.src_port(&frame), p.dst_port(&frame)), (Some(20_002), Some(80)));
        assert_eq!(p.tags()[0].tci, 5);
        for bad in [
            &["proto"][..],
            &["flows=x"],
            &["colour=red"],
            &["proto=udp6", "src=10.0.0.1"],
        ] {
            assert!(Frames::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_answer_counts_only_with_its_tag_and_its_mark() {
        let frames = Frames::parse(&["proto=udp4", "dport=7", "vlan=5"]).unwrap();
        let mut frame = frames.frame(&ends(), 0, &mark(9)).unwrap();
        assert!(!frames.came_back(&frame, &ends(), &mark(9)), "it is from us");
        frame[..6].copy_from_slice(&ENDS.0);
        frame[6..12].copy_from_slice(&ENDS.1);
        assert!(frames.came_back(&frame, &ends(), &mark(9)));
        assert!(!frames.came_back(&frame, &ends(), &mark(8)));
        frame[15] = 6;
        assert!(!frames.came_back(&frame, &ends(), &mark(9)));
    }

    #[test]
    fn the_expected_queue_is_the_tables_entry_for_the_published_hash() {
        // Microsoft, "Verifying the RSS hash calculation": 66.9.149.187:2794 to 161.142.100.80:1766 hashes to 0x51ccc178
        // with ports and to 0x323e8fc2 without.
        let key = parse_key(
            "6d:5a:56:da:25:5b:0e:c2:41:67:25:3d:43:a3:8f:b0:d0:ca:2b:cb:ae:7b:30:b4:77:cb:2d:a3:80:30:f2:0c:6a:42:b7:3b:be:ac:01:fa",
        )
        .unwrap();
        let reta: Vec<u16> = (0..128).collect();
        let frames = Frames::parse(&[
            "proto=tcp4",
            "src=66.9.149.187",
            "dst=161.142.100.80",
            "sport=2794",
            "dport=1766",
            "each=3",
        ])
        .unwrap();
        let queues = |fields| frames.queues(&key, &reta, fields).unwrap();
        assert_eq!(queues("ports"), BTreeMap::from([(0x78, 3)]));
        assert_eq!(queues("addresses"), BTreeMap::from([(0x42, 3)]));
    }
}
