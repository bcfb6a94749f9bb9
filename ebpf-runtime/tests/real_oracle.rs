//! Real programs on the same frames, here and in the Linux kernel: verdict, frame, metadata and map contents must be
//! equal, and so must the records that a consumer of ring buffers and perf events reads. The kernel runs what libbpf loaded from the file, so our loader is judged along with our engines.
//!
//! Calls that give time or chance are replaced by constants in the file before both read it; both run as the same
//! processor. Each program runs twice: with its maps as loaded, and with entries in them.

mod common;
#[path = "common/corpus.rs"]
mod corpus;
#[path = "common/debian.rs"]
mod debian;
#[path = "common/judge.rs"]
mod judge;
#[path = "common/kernel.rs"]
mod kernel;
#[path = "common/packets.rs"]
mod packets;
#[path = "common/rings.rs"]
mod rings;

use std::sync::Arc;

use corpus::{Corpus, is_xdp};
use judge::Judge;
use kernel::{KernelMap, KernelProgram};
use millrace_ebpf::routes::{Link, Routes};
use millrace_ebpf::{
    EngineKind, HintLayout, Instance, Loader, Map, MapFlags, MapType, Object, Program, RouteFeed, XdpBuff,
};
use object::read::elf::{FileHeader, SectionHeader};
use packets::{frames, noise};
use rings::{PerfReader, Reader, RingReader};

/// Calls of the clock and of chance: ktime_get_ns, get_prandom_u32, jiffies64, ktime_get_boot_ns, _coarse_ns, _tai_ns.
const UNSTEADY: [i32; 6] = [5, 7, 118, 125, 160, 208];

/// Replaces unsteady calls in executable sections by `r0 = constant`.
fn steady(elf: &[u8]) -> Option<Vec<u8>> {
    let endian = object::LittleEndian;
    let header = object::elf::FileHeader64::<object::LittleEndian>::parse(elf).ok()?;
    let mut out = elf.to_vec();
    for section in header.sections(endian, elf).ok()?.iter() {
        if section.sh_flags(endian).0 & object::elf::SHF_EXECINSTR.0 == 0 {
            continue;
        }
        let Some((start, len)) = section.file_range(endian) else {
            continue;
        };
        let code = out.get_mut(start as usize..(start + len) as usize)?;
        let mut wide = false;
        for insn in code.as_chunks_mut::<8>().0 {
            if std::mem::take(&mut wide) {
                continue;
            }
            wide = insn[0] == 0x18;
            let id = i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]);
            if insn[..4] == [0x85, 0, 0, 0] && UNSTEADY.contains(&id) {
                insn[0] = 0xb7;
                insn[4..].copy_from_slice(&(0x0102_0304 + id).to_le_bytes());
            }
        }
    }
    Some(out)
}

/// Room before a frame and in all, as `BPF_PROG_TEST_RUN` gives it: a page less what `struct skb_shared_info` takes.
const HEADROOM: usize = 256;
const BUFFER: usize = 4096 - 320;

/// Runs one frame; gives the raw verdict, the length of the metadata, and metadata and frame.
fn run(instance: &mut Instance, frame: &[u8]) -> (u32, usize, Vec<u8>) {
    let mut buffer = vec![0u8; BUFFER];
    buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
    let (verdict, meta, start, len) = {
        let buf = XdpBuff::new(&mut buffer, HEADROOM, frame.len(), 0, &[]);
        let mut buf = buf.with_ingress_ifindex(1);
        let verdict = instance.run_one(&mut buf);
        assert_eq!(
            verdict.fault,
            millrace_ebpf::Fault::None,
            "{:?}",
            instance.last_fault()
        );
        (verdict, buf.meta_len(), buf.data_offset(), buf.len())
    };
    (verdict.raw, meta, buffer[start - meta..start + len].to_vec())
}

/// A program on one of our engines.
struct Ours {
    engine: EngineKind,
    program: Arc<Program>,
    instance: Instance,
    /// Names of its object's maps of types that are supported.
    maps: Vec<String>,
}

fn ours(elf: &[u8], name: &str, cpu: u32, feed: &RouteFeed) -> Vec<Ours> {
    let object = Object::parse(elf).unwrap();
    let on = |engine| {
        let loaded = Loader::new().cpus(cpu + 1).load(&object).unwrap();
        let program = loaded.program(Some(name)).unwrap();
        // Engines for comparison may refuse what they cannot run right.
        let mut instance = program.instance(engine, cpu).ok()?;
        instance.set_routes(feed);
        instance.set_hints(&HintLayout::none());
        Some(Ours {
            engine,
            program,
            instance,
            maps: loaded.maps.keys().cloned().collect(),
        })
    };
    EngineKind::available().into_iter().filter_map(on).collect()
}

fn has_plain_values(map: &Map) -> bool {
    use MapType as T;
    matches!(map.kind(), T::Array | T::Hash | T::LruHash | T::LpmTrie)
}

/// Keys and values that make programs find something.
fn entries(map: &Map, frames: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let def = map.def();
    let (key_size, value_size) = (def.key_size as usize, def.value_size as usize);
    let small = |seed: u64| -> Vec<u8> {
        let mut next = noise(seed);
        (0..value_size)
            .map(|i| if i % 4 == 0 { next() % 8 } else { 0 })
            .collect()
    };
    match def.kind {
        MapType::Array => (0..def.max_entries.min(16))
            .map(|i| (i.to_ne_bytes().to_vec(), small(i.into())))
            .collect(),
        MapType::Devmap | MapType::DevmapHash => (0..def.max_entries.min(4))
            .map(|i| {
                let mut value = 1u32.to_ne_bytes().to_vec();
                value.resize(value_size, 0);
                (i.to_ne_bytes().to_vec(), value)
            })
            .collect(),
        MapType::Hash | MapType::LruHash => {
            let mut all = vec![(vec![0; key_size], small(1))];
            for (n, frame) in frames.iter().enumerate().step_by(3) {
                for at in [0, 6, 12, 23, 26, 30, 34, 36] {
                    if let Some(key) = frame.get(at..at + key_size) {
                        all.push((key.to_vec(), small(n as u64)));
                    }
                }
            }
            all.truncate(def.max_entries as usize / 2);
            all
        }
        MapType::LpmTrie => [(0u32, 26), (8, 26), (24, 30), (32, 30)]
            .iter()
            .filter(|(len, _)| *len as usize <= 8 * (key_size - 4))
            .filter_map(|(len, at)| {
                let address = frames[0].get(*at..at + key_size - 4)?;
                Some(([&len.to_ne_bytes()[..], address].concat(), small(u64::from(*len))))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// What was compared.
#[derive(Default)]
struct Tally {
    programs: usize,
    runs: usize,
    packets: usize,
    values: usize,
    records: usize,
    verdicts: [usize; 8],
    skipped: Vec<String>,
}

struct Pair<'a> {
    what: String,
    ours: &'a mut Ours,
    /// Our maps, by their places, with the kernel's.
    maps: &'a [(usize, KernelMap)],
}

impl Pair<'_> {
    /// Compares the contents of all maps both sides can tell; counts the values.
    fn compare_maps(&self, cpu: u32, tally: &mut Tally) {
        for (at, theirs) in self.maps {
            let map = &self.ours.program.maps()[*at];
            let what = || format!("{}: map {}", self.what, map.name());
            if map.kind().is_percpu() {
                let stride = (map.def().value_size as usize).next_multiple_of(8);
                for (key, _) in map.iter() {
                    let values = map.lookup_percpu(&key).unwrap();
                    let kernel = theirs.lookup(&key).unwrap_or_default();
                    let mine = &values[cpu as usize];
                    let from = stride * cpu as usize;
                    assert_eq!(
                        kernel.get(from..from + mine.len()),
                        Some(&mine[..]),
                        "{} {key:02x?}",
                        what()
                    );
                    tally.values += 1;
                }
                continue;
            }
            if !has_plain_values(map)
                || (map.kind() == MapType::LruHash && map.len() == map.def().max_entries)
            {
                continue;
            }
            let mut count = 0;
            for (key, value) in map.iter() {
                assert_eq!(theirs.lookup(&key), Some(value), "{} key {key:02x?}", what());
                count += 1;
            }
            if map.kind() != MapType::Array {
                let kernel = theirs.keys(map.def().key_size as usize).len();
                assert_eq!(kernel, count, "{}: entries", what());
            }
            tally.values += count;
        }
    }
}

/// The kernel's map for each of ours.
fn matched(ours: &Ours, theirs: &[(String, u32)]) -> Vec<(usize, KernelMap)> {
    let mut out = Vec::new();
    let maps = ours.program.maps();
    let supported = maps.iter().enumerate();
    for (at, map) in supported.filter(|(_, m)| ours.maps.iter().any(|n| n == m.name())) {
        // libbpf puts a part of the object's name before `.data` and its like.
        let same =
            |name: &str| name == map.name() || (map.name().starts_with('.') && name.ends_with(map.name()));
        let id = theirs.iter().find(|(name, _)| same(name)).map(|(_, id)| *id);
        if let Some(kernel) = id.and_then(|id| KernelMap::by_id(id, map).ok()) {
            out.push((at, kernel));
        }
    }
    out
}

#[test]
fn real_programs_agree_with_the_kernel() {
    let test = "real_programs_agree_with_the_kernel";
    if !kernel::available(test) {
        return;
    }
    let Some(corpus) = Corpus::get(test) else { return };
    let Some(mut judge) = Judge::start(test) else {
        return;
    };
    let cpu = kernel::stay_on_one_cpu().unwrap();
    kernel::leave_network().unwrap();
    // All that this namespace has is a loopback device, which is down and forwards nothing.
    let feed = RouteFeed::new(Routes::new([Link {
        index: 1,
        name: "lo".into(),
        mtu: 65536,
        mtu6: 65536,
        header_len: 14,
        one_neighbour: true,
        ..Link::default()
    }]));
    let dir = tempfile::tempdir().unwrap();
    let frames = frames();
    let mut tally = Tally::default();
    for object in &corpus.objects {
        let Ok(parsed) = Object::parse(&object.bytes) else {
            continue;
        };
        let Some(elf) = steady(&object.bytes) else {
            continue;
        };
        let path = dir.path().join("steady.o");
        std::fs::write(&path, &elf).unwrap();
        let Ok(loaded) = Loader::new().cpus(cpu + 1).load(&parsed) else {
            continue;
        };
        for info in parsed.programs().iter().filter(|p| is_xdp(&p.section)) {
            let accepted = loaded.program(Some(&info.name)).is_ok_and(|p| p.verify().is_ok());
            if !accepted {
                continue;
            }
            let name = format!("{} {}", object.name, info.name);
            compare(
                &name,
                &elf,
                &info.name,
                (&mut judge, &path),
                cpu,
                &feed,
                &frames,
                &mut tally,
            );
        }
    }
    for skipped in &tally.skipped {
        println!("not compared: {skipped}");
    }
    println!(
        "{} programs, {} frames each, {} runs compared on {} engines: verdicts {:?}; {} map values and {} records compared",
        tally.programs,
        frames.len(),
        tally.runs,
        EngineKind::available().len(),
        tally.verdicts,
        tally.values,
        tally.records
    );
    assert!(
        frames.len() >= 20 && tally.programs >= 60,
        "{} programs",
        tally.programs
    );
}

#[allow(clippy::too_many_arguments)]
fn compare(
    name: &str,
    elf: &[u8],
    program: &str,
    (judge, path): (&mut Judge, &std::path::Path),
    cpu: u32,
    feed: &RouteFeed,
    frames: &[Vec<u8>],
    tally: &mut Tally,
) {
    for seeded in [false, true] {
        let theirs = match judge.load(path, program) {
            Ok(theirs) => theirs,
            Err(why) => {
                return tally
                    .skipped
                    .push(format!("{name}: the kernel refuses it ({why})"));
            }
        };
        let mut engines = ours(elf, program, cpu, feed);
        let Some(first) = engines.first() else { return };
        let maps = matched(first, &theirs.maps);
        let kernel = KernelProgram::by_id(theirs.program, Vec::new()).unwrap();
        let readers = readers(&engines, &maps, cpu);
        if seeded && !seed(&engines, &maps, frames, name) {
            // Nothing could be put into its maps: the second round would be the first again.
            break;
        }
        for (n, frame) in frames.iter().enumerate() {
            let what = format!(
                "{name}, {}, frame {n}",
                if seeded { "seeded" } else { "as loaded" }
            );
            let theirs = match kernel.run(frame) {
                Ok(theirs) => theirs,
                Err(why) => {
                    return tally
                        .skipped
                        .push(format!("{name}: the kernel does not run it ({why})"));
                }
            };
            let sent: Vec<_> = readers.iter().map(|(_, reader)| reader.take()).collect();
            for ours in &mut engines {
                let what = format!("{what} on {}", ours.engine.name());
                let (verdict, meta, bytes) = run(&mut ours.instance, frame);
                assert_eq!(verdict, theirs.verdict, "{what}: verdict");
                assert_eq!(meta, theirs.meta, "{what}: metadata");
                assert!(
                    bytes == theirs.frame,
                    "{what}:\nours   {bytes:02x?}\nkernel {:02x?}",
                    theirs.frame
                );
                for ((at, reader), theirs) in readers.iter().zip(&sent) {
                    let mine = records(&ours.program.maps()[*at], cpu);
                    assert!(
                        reader.same(theirs, &mine),
                        "{what}: records\nours   {mine:02x?}\nkernel {theirs:02x?}"
                    );
                    tally.records += mine.len();
                }
                tally.runs += 1;
            }
            tally.verdicts[theirs.verdict.min(7) as usize] += 1;
            tally.packets += 1;
        }
        for ours in &mut engines {
            let what = format!("{name} on {}", ours.engine.name());
            Pair {
                what,
                ours,
                maps: &maps,
            }
            .compare_maps(cpu, tally);
        }
    }
    tally.programs += 1;
}

/// Consumers of the kernel's ring buffers and perf events, ours opened too where that has to be said.
fn readers(engines: &[Ours], maps: &[(usize, KernelMap)], cpu: u32) -> Vec<(usize, Reader)> {
    let open = |(at, theirs): &(usize, KernelMap)| {
        let map = &engines[0].program.maps()[*at];
        let reader = match map.kind() {
            MapType::Ringbuf => {
                let size = map.def().max_entries as usize;
                Reader::Ring(RingReader::open(theirs.fd(), size).ok()?)
            }
            MapType::PerfEventArray => {
                let reader = PerfReader::open(cpu).ok()?;
                theirs
                    .update(&cpu.to_ne_bytes(), &reader.fd().to_ne_bytes())
                    .ok()?;
                for ours in engines {
                    ours.program.maps()[*at].open_perf(cpu, 1 << 16).unwrap();
                }
                Reader::Perf(reader)
            }
            _ => return None,
        };
        Some((*at, reader))
    };
    maps.iter().filter_map(open).collect()
}

/// What our side's consumer reads.
fn records(map: &Map, cpu: u32) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    let take = |record: &[u8]| out.push(record.to_vec());
    let done = match map.kind() {
        MapType::Ringbuf => map.consume(usize::MAX, take),
        _ => map.consume_perf(cpu, usize::MAX, take),
    };
    done.unwrap();
    out
}

/// Puts the same entries into both sides' maps; whether any went in.
fn seed(engines: &[Ours], maps: &[(usize, KernelMap)], frames: &[Vec<u8>], name: &str) -> bool {
    let mut any = false;
    for (at, theirs) in maps {
        let map = engines[0].program.maps()[*at].clone();
        for (key, value) in entries(&map, frames) {
            let kernel = theirs.update(&key, &value).is_ok();
            for ours in engines {
                let mine = ours.program.maps()[*at].update(&key, &value, MapFlags::Any);
                assert_eq!(
                    mine.is_ok(),
                    kernel,
                    "{name}: {mine:?} for {key:02x?} in {}",
                    map.name()
                );
            }
            any |= kernel;
        }
    }
    any
}
