//! Which TX queue a frame leaves through, and the flow hash that decides it in the last resort.
//!
//! The order is that of XPS with a program hook in front: the program's return value if it has an opinion,
//! then the map from RX queue to TX queues, then the map from CPU to TX queues, then the flow hash over all
//! queues. A [`TxSteering`] belongs to one worker (it counts without atomics); [`TxSteering::for_worker`]
//! makes the next worker's.

use std::cell::Cell;

use millrace_nic_models::toeplitz;

/// What steering has done. Unit: frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteeringStats {
    /// Decided by the program.
    pub program: u64,
    /// The program named a queue that does not exist; it was taken modulo the number of queues.
    pub out_of_range: u64,
    /// The program had no opinion (negative).
    pub no_opinion: u64,
    /// The program was ended by a fault; those count as no opinion, too.
    pub aborted: u64,
    /// Decided by the map from RX queue.
    pub rxq_map: u64,
    /// Decided by the map from CPU.
    pub cpu_map: u64,
    /// Decided by the flow hash, as nothing before it applied.
    pub fallback: u64,
}

#[derive(Default)]
struct Counters {
    program: Cell<u64>,
    out_of_range: Cell<u64>,
    no_opinion: Cell<u64>,
    aborted: Cell<u64>,
    rxq_map: Cell<u64>,
    cpu_map: Cell<u64>,
    fallback: Cell<u64>,
}

#[inline]
fn bump(c: &Cell<u64>) {
    c.set(c.get().wrapping_add(1));
}

/// A program that chooses a TX queue, for callers that keep it inside the steering object.
/// The return value follows the XPS hook: negative means "no opinion", anything else is taken modulo the
/// number of TX queues.
pub trait TxChooser: Send {
    /// Chooses for one frame; `None` when it could not run to its end, which counts as no opinion.
    fn choose(&mut self, frame: TxFrame<'_>) -> Option<i32>;
}

/// A frame as a program that chooses its TX queue sees it.
#[derive(Debug)]
pub struct TxFrame<'a> {
    /// Its bytes; of a frame in several buffers, those in the first one.
    pub data: &'a mut [u8],
    /// Length of the whole frame in bytes.
    pub len: usize,
    /// Its RX write-back, empty when it was not received.
    pub raw: &'a [u8],
    /// The RX queue it came in on, if it was received.
    pub rxq: Option<u16>,
}

/// A refused map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SteeringError {
    /// There must be a queue to choose.
    #[error("TX steering needs at least one TX queue; open the port with `queues` of 1 or more")]
    NoQueues,
    /// A map names a queue that the port does not have.
    #[error("TX steering map names queue {queue}, but the port has queues 0..{queues}; correct the map")]
    NoSuchQueue {
        /// The queue in the map.
        queue: u16,
        /// Queues of the port.
        queues: u16,
    },
}

/// TX queue choice of one worker.
pub struct TxSteering {
    queues: u16,
    rxq_map: Vec<Vec<u16>>,
    cpu_map: Vec<Vec<u16>>,
    chooser: Option<Box<dyn TxChooser>>,
    counters: Counters,
}

impl std::fmt::Debug for TxSteering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TxSteering")
            .field("queues", &self.queues)
            .field("rxq_map", &self.rxq_map)
            .field("cpu_map", &self.cpu_map)
            .field("program", &self.chooser.is_some())
            .field("stats", &self.stats())
            .finish()
    }
}

impl TxSteering {
    /// Steering over `queues` TX queues, with empty maps: everything goes by flow hash.
    pub fn new(queues: u16) -> Result<TxSteering, SteeringError> {
        if queues == 0 {
            return Err(SteeringError::NoQueues);
        }
        Ok(TxSteering {
            queues,
            rxq_map: Vec::new(),
            cpu_map: Vec::new(),
            chooser: None,
            counters: Counters::default(),
        })
    }

    /// The same maps with fresh counters and an empty program slot, for another worker.
    pub fn for_worker(&self) -> TxSteering {
        TxSteering {
            queues: self.queues,
            rxq_map: self.rxq_map.clone(),
            cpu_map: self.cpu_map.clone(),
            chooser: None,
            counters: Counters::default(),
        }
    }

    /// Frames received on `rxq` leave through one of `tx` (by hash if there are several); an empty list
    /// removes the entry. Like `/sys/class/net/*/queues/tx-*/xps_rxqs`, turned round.
    pub fn set_rxq(&mut self, rxq: u16, tx: &[u16]) -> Result<(), SteeringError> {
        self.check(tx)?;
        set(&mut self.rxq_map, rxq, tx);
        Ok(())
    }

    /// Frames sent from `cpu` leave through one of `tx`; an empty list removes the entry.
    /// Like `/sys/class/net/*/queues/tx-*/xps_cpus`, turned round.
    pub fn set_cpu(&mut self, cpu: u16, tx: &[u16]) -> Result<(), SteeringError> {
        self.check(tx)?;
        set(&mut self.cpu_map, cpu, tx);
        Ok(())
    }

    /// Puts a program in front, or takes it away; returns the one that was there.
    pub fn set_program(&mut self, chooser: Option<Box<dyn TxChooser>>) -> Option<Box<dyn TxChooser>> {
        std::mem::replace(&mut self.chooser, chooser)
    }

    /// Whether a program sits in front.
    pub fn has_program(&self) -> bool {
        self.chooser.is_some()
    }

    /// Number of TX queues.
    pub fn queues(&self) -> u16 {
        self.queues
    }

    /// Runs the program in the slot on one frame; `None` when the slot is empty.
    pub fn run_program(&mut self, frame: TxFrame<'_>) -> Option<i32> {
        let opinion = self.chooser.as_mut()?.choose(frame);
        if opinion.is_none() {
            bump(&self.counters.aborted);
        }
        Some(opinion.unwrap_or(-1))
    }

    /// The TX queue of one frame. `rxq` is the RX queue it came from, if it was received; `program` is
    /// what a program in front returned, if one ran.
    #[inline]
    pub fn choose(&self, rxq: Option<u16>, cpu: u16, hash: u32, program: Option<i32>) -> u16 {
        self.choose_with(rxq, cpu, || hash, program)
    }

    /// As [`choose`](Self::choose), with the flow hash computed only if it is needed.
    #[inline]
    pub fn choose_with(
        &self,
        rxq: Option<u16>,
        cpu: u16,
        hash: impl FnOnce() -> u32,
        program: Option<i32>,
    ) -> u16 {
        if let Some(opinion) = program {
            if let Ok(queue) = u32::try_from(opinion) {
                bump(&self.counters.program);
                if queue < u32::from(self.queues) {
                    return queue as u16;
                }
                bump(&self.counters.out_of_range);
                return (queue % u32::from(self.queues)) as u16;
            }
            bump(&self.counters.no_opinion);
        }
        if let Some(set) = rxq.and_then(|q| lookup(&self.rxq_map, q)) {
            bump(&self.counters.rxq_map);
            return pick(set, hash);
        }
        if let Some(set) = lookup(&self.cpu_map, cpu) {
            bump(&self.counters.cpu_map);
            return pick(set, hash);
        }
        bump(&self.counters.fallback);
        if self.queues == 1 {
            0
        } else {
            scale(hash(), u32::from(self.queues)) as u16
        }
    }

    /// The TX queues of many frames that came from one RX queue, and about which no program has an opinion: as
    /// [`choose_with`](Self::choose_with) for each, with maps and counters looked at once. `hash` gives a frame's flow hash,
    /// and is asked only where it has a say; each frame is given to `put` with its queue, in order.
    #[inline]
    pub fn spread<T>(
        &self,
        rxq: Option<u16>,
        cpu: u16,
        frames: impl IntoIterator<Item = T>,
        mut hash: impl FnMut(&T) -> u32,
        mut put: impl FnMut(u16, T),
    ) {
        let (set, counter) = self.route(rxq, cpu);
        let mut n = 0;
        let frames = frames.into_iter().inspect(|_| n += 1);
        match set {
            Some(&[one]) => frames.for_each(|frame| put(one, frame)),
            None if self.queues == 1 => frames.for_each(|frame| put(0, frame)),
            Some(set) => frames.for_each(|frame| put(pick(set, || hash(&frame)), frame)),
            None => {
                let queues = u32::from(self.queues);
                frames.for_each(|frame| put(scale(hash(&frame), queues) as u16, frame));
            }
        }
        counter.set(counter.get().wrapping_add(n));
    }

    /// The queues that a frame's hash chooses from, and who says so; none for all queues.
    fn route(&self, rxq: Option<u16>, cpu: u16) -> (Option<&[u16]>, &Cell<u64>) {
        if let Some(set) = rxq.and_then(|q| lookup(&self.rxq_map, q)) {
            return (Some(set), &self.counters.rxq_map);
        }
        match lookup(&self.cpu_map, cpu) {
            Some(set) => (Some(set), &self.counters.cpu_map),
            None => (None, &self.counters.fallback),
        }
    }

    /// The counters of this worker.
    pub fn stats(&self) -> SteeringStats {
        let c = &self.counters;
        SteeringStats {
            program: c.program.get(),
            out_of_range: c.out_of_range.get(),
            no_opinion: c.no_opinion.get(),
            aborted: c.aborted.get(),
            rxq_map: c.rxq_map.get(),
            cpu_map: c.cpu_map.get(),
            fallback: c.fallback.get(),
        }
    }

    fn check(&self, tx: &[u16]) -> Result<(), SteeringError> {
        match tx.iter().find(|q| **q >= self.queues) {
            Some(&queue) => Err(SteeringError::NoSuchQueue {
                queue,
                queues: self.queues,
            }),
            None => Ok(()),
        }
    }
}

fn set(map: &mut Vec<Vec<u16>>, key: u16, tx: &[u16]) {
    let key = usize::from(key);
    if map.len() <= key {
        map.resize(key + 1, Vec::new());
    }
    map[key] = tx.to_vec();
}

#[inline]
fn lookup(map: &[Vec<u16>], key: u16) -> Option<&[u16]> {
    map.get(usize::from(key))
        .map(Vec::as_slice)
        .filter(|set| !set.is_empty())
}

#[inline]
fn pick(set: &[u16], hash: impl FnOnce() -> u32) -> u16 {
    match set {
        [one] => *one,
        _ => set
            .get(scale(hash(), set.len() as u32) as usize)
            .copied()
            .unwrap_or(0),
    }
}

/// Maps a hash onto `0..n` by its high bits, without a division.
#[inline]
fn scale(hash: u32, n: u32) -> u32 {
    ((u64::from(hash) * u64::from(n)) >> 32) as u32
}

/// The key with which Microsoft published the RSS test vectors; also the default of most drivers.
pub const MICROSOFT_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0,
    0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42,
    0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// Toeplitz hash of a frame's addresses and, for unfragmented TCP and UDP, ports, as an RSS device with
/// these types switched on would compute it. `None` for frames that are neither IPv4 nor IPv6.
pub fn flow_hash(key: &[u8; 40], frame: &[u8]) -> Option<u32> {
    let (input, len) = flow_tuple(frame)?;
    Some(toeplitz::hash(key, input.get(..len)?))
}

/// Collects the RSS input (source address, destination address, source port, destination port, in network
/// order) of a frame: 8 or 12 bytes for IPv4, 32 or 36 for IPv6.
fn flow_tuple(frame: &[u8]) -> Option<([u8; 36], usize)> {
    let mut off = 12;
    let mut ethertype = be16(frame, off)?;
    let mut tags = 0;
    while matches!(ethertype, 0x8100 | 0x88a8) && tags < 2 {
        off += 4;
        ethertype = be16(frame, off)?;
        tags += 1;
    }
    let ip = off + 2;
    let mut input = [0u8; 36];
    let (addresses, protocol, l4, fragment) = match ethertype {
        0x0800 => {
            let first = *frame.get(ip)?;
            let header = usize::from(first & 0xf) * 4;
            if first >> 4 != 4 || header < 20 {
                return None;
            }
            input[..8].copy_from_slice(frame.get(ip + 12..ip + 20)?);
            (
                8,
                *frame.get(ip + 9)?,
                ip + header,
                be16(frame, ip + 6)? & 0x3fff != 0,
            )
        }
        0x86dd => {
            if frame.get(ip)? >> 4 != 6 {
                return None;
            }
            input[..32].copy_from_slice(frame.get(ip + 8..ip + 40)?);
            (32, *frame.get(ip + 6)?, ip + 40, false)
        }
        _ => return None,
    };
    if !fragment
        && matches!(protocol, 6 | 17)
        && let Some(ports) = frame.get(l4..l4 + 4)
    {
        input[addresses..addresses + 4].copy_from_slice(ports);
        return Some((input, addresses + 4));
    }
    Some((input, addresses))
}

fn be16(frame: &[u8], off: usize) -> Option<u16> {
    let bytes = frame.get(off..off + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_first_and_a_negative_answer_is_no_opinion() {
        let mut s = TxSteering::new(4).unwrap();
        s.set_rxq(1, &[2]).unwrap();
        s.set_cpu(7, &[3]).unwrap();
        assert_eq!(s.choose(Some(1), 7, 0, Some(1)), 1);
        assert_eq!(s.choose(Some(1), 7, 0, Some(-1)), 2);
        assert_eq!(s.choose(None, 7, 0, Some(i32::MIN)), 3);
        assert_eq!(s.choose(Some(0), 7, 0, None), 3);
        assert_eq!(s.choose(None, 0, u32::MAX, None), 3);
        assert_eq!(s.choose(None, 0, 0, None), 0);
        let stats = s.stats();
        assert_eq!((stats.program, stats.no_opinion, stats.out_of_range), (1, 2, 0));
        assert_eq!((stats.rxq_map, stats.cpu_map, stats.fallback), (1, 2, 2));
    }

    #[test]
    fn a_program_that_names_a_queue_out_of_range_is_taken_modulo_and_counted() {
        let s = TxSteering::new(4).unwrap();
        assert_eq!(s.choose(None, 0, 0, Some(4)), 0);
        assert_eq!(s.choose(None, 0, 0, Some(i32::MAX)), (i32::MAX % 4) as u16);
        assert_eq!(s.stats().out_of_range, 2);
        assert_eq!(s.stats().program, 2);
    }

    #[test]
    fn a_map_with_several_queues_spreads_by_hash() {
        let mut s = TxSteering::new(8).unwrap();
        s.set_rxq(0, &[4, 5, 6, 7]).unwrap();
        let mut seen = [0u32; 8];
        for i in 0..4096u32 {
            let q = s.choose_with(Some(0), 0, || i.wrapping_mul(0x9e37_79b9), None);
            seen[usize::from(q)] += 1;
        }
        assert_eq!(&seen[..4], &[0; 4]);
        assert!(seen[4..].iter().all(|n| (900..1150).contains(n)), "{seen:?}");
    }

    #[test]
    fn many_frames_at_once_go_where_each_would_go_alone() {
        let hashes = || (0..500u32).map(|i| (i, i.wrapping_mul(0x9e37_79b9)));
        let setups: [fn(&mut TxSteering); 4] = [
            |_| (),
            |s| s.set_rxq(1, &[6]).unwrap(),
            |s| s.set_rxq(1, &[2, 3, 5]).unwrap(),
            |s| s.set_cpu(7, &[0, 4]).unwrap(),
        ];
        for (i, setup) in setups.into_iter().enumerate() {
            let (mut alone, mut together) = (TxSteering::new(8).unwrap(), TxSteering::new(8).unwrap());
            setup(&mut alone);
            setup(&mut together);
            let want: Vec<_> = hashes()
                .map(|(frame, hash)| (alone.choose(Some(1), 7, hash, None), frame))
                .collect();
            let (mut got, mut asked) = (Vec::new(), 0);
            let hash = |(_, hash): &(u32, u32)| {
                asked += 1;
                *hash
            };
            together.spread(Some(1), 7, hashes(), hash, |queue, (frame, _)| {
                got.push((queue, frame))
            });
            assert_eq!(got, want, "setup {i}");
            assert_eq!(together.stats(), alone.stats(), "setup {i}");
            // A map that leaves no choice asks for no hash.
            let one = want.iter().all(|(queue, _)| *queue == want[0].0);
            assert_eq!(asked, if one { 0 } else { want.len() }, "setup {i}");
        }
    }

    #[test]
    fn a_map_to_a_missing_queue_is_refused() {
        let mut s = TxSteering::new(2).unwrap();
        assert_eq!(
            s.set_rxq(0, &[2]),
            Err(SteeringError::NoSuchQueue { queue: 2, queues: 2 })
        );
        assert!(matches!(TxSteering::new(0), Err(SteeringError::NoQueues)));
    }

    #[test]
    fn the_program_slot_is_run_and_can_be_taken_back() {
        struct LastByte;
        impl TxChooser for LastByte {
            fn choose(&mut self, frame: TxFrame<'_>) -> Option<i32> {
                frame.data.last().map(|b| i32::from(*b))
            }
        }
        fn frame(data: &mut [u8]) -> TxFrame<'_> {
            TxFrame {
                len: data.len(),
                data,
                raw: &[],
                rxq: None,
            }
        }
        let mut s = TxSteering::new(4).unwrap();
        assert_eq!(s.run_program(frame(&mut [1])), None);
        s.set_program(Some(Box::new(LastByte)));
        let opinion = s.run_program(frame(&mut [0, 3]));
        assert_eq!(s.choose(None, 0, 0, opinion), 3);
        assert_eq!(s.run_program(frame(&mut [])), Some(-1), "a fault is no opinion");
        assert_eq!(s.stats().aborted, 1);
        assert!(s.set_program(None).is_some());
        assert!(!s.has_program());
    }

    #[test]
    fn the_flow_hash_matches_the_published_rss_vectors() {
        // Microsoft's RSS verification suite: 66.9.149.187:2794 -> 161.142.100.80:1766.
        let mut frame = vec![0u8; 14 + 20 + 8];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[14 + 9] = 6;
        frame[26..30].copy_from_slice(&[66, 9, 149, 187]);
        frame[30..34].copy_from_slice(&[161, 142, 100, 80]);
        frame[34..38].copy_from_slice(&[0x0a, 0xea, 0x06, 0xe6]);
        assert_eq!(flow_hash(&MICROSOFT_KEY, &frame), Some(0x51cc_c178));
        frame[14 + 6] = 0x20; // more fragments: addresses only
        assert_eq!(flow_hash(&MICROSOFT_KEY, &frame), Some(0x323e_8fc2));
        assert_eq!(flow_hash(&MICROSOFT_KEY, &frame[..30]), None);
    }
}
