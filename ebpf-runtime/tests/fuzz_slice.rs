//! A slice of the fuzz targets: mutated objects that others compiled, BTF, maps and programs through the same four
//! functions, for a few seconds (with `MILLRACE_SOAK=1` some minutes), within bounded memory.

mod common;
#[path = "common/debian.rs"]
mod debian;
#[path = "../fuzz/entries.rs"]
mod entries;
#[path = "common/packets.rs"]
mod packets;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millrace_ebpf::{Errno, Loader, Map, MapDef, MapFlags, MapType, Object};

/// Most memory that all of this may ever have taken.
const MEMORY_KIB: u64 = 3 << 20;
/// A case that takes this long does not end.
const STUCK: Duration = Duration::from_secs(120);

/// Ends the process, with the case's name, if one does not end.
struct Watchdog {
    cases: Arc<AtomicU64>,
    name: Arc<Mutex<String>>,
}

impl Watchdog {
    fn start() -> Watchdog {
        let watchdog = Watchdog {
            cases: Arc::default(),
            name: Arc::default(),
        };
        let (cases, name) = (Arc::downgrade(&watchdog.cases), watchdog.name.clone());
        std::thread::spawn(move || {
            let (mut last, mut since) = (0, Instant::now());
            while let Some(cases) = cases.upgrade() {
                let now = cases.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                }
                if since.elapsed() > STUCK {
                    eprintln!("case {now} of {} does not end", name.lock().unwrap());
                    std::process::abort();
                }
                drop(cases);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        watchdog
    }

    /// Runs cases until time is up; gives how many.
    fn cases(&self, name: &str, mut case: impl FnMut(u64)) -> u64 {
        *self.name.lock().unwrap() = name.into();
        let soak = std::env::var_os("MILLRACE_SOAK").is_some();
        let end = Instant::now() + Duration::from_secs(if soak { 60 } else { 2 });
        let mut count = 0;
        while Instant::now() < end {
            case(count);
            count += 1;
            self.cases.fetch_add(1, Ordering::Relaxed);
        }
        println!("{name}: {count} cases");
        assert!(count > 0);
        count
    }
}

/// A stream of numbers.
struct Dice(Box<dyn FnMut() -> u8>);

impl Dice {
    fn new(seed: u64) -> Dice {
        Dice(Box::new(packets::noise(seed)))
    }

    fn below(&mut self, n: usize) -> usize {
        let word = (0..4).fold(0usize, |w, _| w << 8 | usize::from((self.0)()));
        word % n.max(1)
    }

    /// Changes a few bytes, words or stretches.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(8) {
            if bytes.is_empty() {
                return;
            }
            let at = self.below(bytes.len());
            let end = (at + 1 + self.below(16)).min(bytes.len());
            match self.below(7) {
                0 => bytes[at] = (self.0)(),
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                3 => bytes[at..end].fill(0xff),
                4 => bytes[at..end].fill(0),
                5 => {
                    let from = self.below(bytes.len());
                    let part: Vec<u8> = bytes[from..].iter().take(end - at).copied().collect();
                    bytes[at..at + part.len().min(end - at)]
                        .copy_from_slice(&part[..part.len().min(end - at)]);
                }
                _ if self.below(8) == 0 => bytes.truncate(at),
                _ => bytes[at] = bytes[at].wrapping_add(1),
            }
        }
    }
}

/// Objects to begin with: what others compiled where it is to be had, and our own.
fn seeds(test: &str) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "count",
        "edges",
        "calls",
        "redirects",
        "events",
        "arith",
        "rx_meta",
    ]
    .iter()
    .filter_map(|name| common::compile(test, name))
    .collect();
    for others in [debian::libxdp(), debian::cilium()] {
        match others {
            Ok(paths) => all.extend(paths.iter().filter_map(|p| std::fs::read(p).ok())),
            Err(why) => println!("without the objects of a package: {why}"),
        }
    }
    all.retain(|elf| elf.len() < 1 << 18);
    all
}

/// A section of an object, by its name.
fn section<'a>(elf: &'a [u8], name: &str) -> Option<&'a [u8]> {
    use object::read::elf::{FileHeader, SectionHeader};
    let endian = object::LittleEndian;
    let header = object::elf::FileHeader64::<object::LittleEndian>::parse(elf).ok()?;
    let sections = header.sections(endian, elf).ok()?;
    let (_, found) = sections.section_by_name(endian, name.as_bytes())?;
    found.data(endian, elf).ok()
}

#[test]
fn mutated_elf_btf_maps_and_programs_end_in_an_error_or_a_bounded_run() {
    let test = "mutated_elf_btf_maps_and_programs_end_in_an_error_or_a_bounded_run";
    let seeds = seeds(test);
    if seeds.is_empty() {
        return println!("SKIP {test}: neither clang nor objects to begin with");
    }
    let watchdog = Watchdog::start();

    for elf in &seeds {
        entries::elf(elf);
    }
    watchdog.cases("elf", |n| {
        let mut dice = Dice::new(n + 1);
        let mut elf = seeds[dice.below(seeds.len())].clone();
        dice.mutate(&mut elf);
        entries::elf(&elf);
    });

    let types: Vec<(&[u8], &[u8])> = seeds
        .iter()
        .filter_map(|elf| {
            Some((
                section(elf, ".BTF")?,
                section(elf, ".BTF.ext").unwrap_or_default(),
            ))
        })
        .filter(|(btf, _)| btf.len() < 1 << 16)
        .collect();
    assert!(!types.is_empty());
    watchdog.cases("btf", |n| {
        let mut dice = Dice::new(n + 1);
        let (btf, ext) = types[dice.below(types.len())];
        let (mut btf, mut ext) = (btf.to_vec(), ext.to_vec());
        dice.mutate(&mut btf);
        dice.mutate(&mut ext);
        let input = [&(btf.len() as u16).to_le_bytes()[..], &btf, &ext].concat();
        entries::btf(&input);
    });

    watchdog.cases("maps", |n| {
        let mut dice = Dice::new(n + 1);
        let small = |dice: &mut Dice, n| (dice.below(n) as u32).to_le_bytes();
        let mut input = Vec::new();
        input.extend(small(&mut dice, 34));
        for most in [40, 100, 40] {
            input.extend(small(&mut dice, most));
        }
        input.extend([[0u32, 1, 128, 8][dice.below(4)].to_le_bytes(), [0; 4]].concat());
        input.extend((0..400).map(|_| (dice.0)()));
        if dice.below(4) == 0 {
            dice.mutate(&mut input);
        }
        entries::maps(&input);
    });

    let code: Vec<Vec<u8>> = seeds
        .iter()
        .filter_map(|elf| Loader::new().cpus(2).load(&Object::parse(elf).ok()?).ok())
        .flat_map(|loaded| loaded.programs().iter().map(|p| p.bytecode()).collect::<Vec<_>>())
        .filter(|code| code.len() < 1 << 14)
        .collect();
    watchdog.cases("programs", |n| {
        let mut dice = Dice::new(n + 1);
        let mut code = code[dice.below(code.len())].clone();
        dice.mutate(&mut code);
        entries::programs(&code);
    });

    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let most: u64 = most
        .and_then(|l| l.trim().split(' ').next()?.parse().ok())
        .unwrap_or(0);
    println!("at most {} MiB of memory", most >> 10);
    assert!(most < MEMORY_KIB, "{most} KiB");
}

#[test]
fn zeroes_that_a_file_only_promises_are_bounded() {
    // Neither empty nor wrong, so that what decides is their size.
    let empty = [
        0x9f, 0xeb, 1, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0,
    ];
    let no_lines = [&empty[..8], &[0; 16]].concat();
    let with = |zeroed: &[u64]| {
        let mut elf = entries::object_with(&empty, &no_lines, zeroed);
        // The map variable has no definition: its section must not be one of maps.
        let at = elf.windows(6).position(|w| w == b".maps\0").unwrap();
        elf[at + 1] = b'n';
        Object::parse(&elf).map(|o| o.maps().len())
    };
    assert_eq!(with(&[16 << 20; 4]).unwrap(), 4);
    for (count, size) in [(5, 16 << 20), (4000, 16 << 20), (1, 17 << 20), (2, u64::MAX)] {
        let error = with(&vec![size; count]).unwrap_err().to_string();
        assert!(error.contains("limit"), "{count} of {size}: {error}");
    }
}

#[test]
fn values_of_all_workers_are_refused_by_maps_that_have_one_for_all() {
    // What the fuzzer found: a map whose values have no size.
    let ring = MapDef {
        name: "ring".into(),
        kind: MapType::Ringbuf,
        key_size: 0,
        value_size: 0,
        max_entries: 4096,
        flags: 0,
    };
    let map = Map::new(&ring, 2).unwrap();
    let given = map.update_percpu(&[], &[vec![], vec![]], MapFlags::Any);
    assert_eq!(given, Err(Errno::INVAL));
}
