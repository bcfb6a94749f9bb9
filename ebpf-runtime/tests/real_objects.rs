//! Objects that others compiled, as Debian ships them: libxdp's and xdp-tools' programs, and the test data of cilium's
//! loader. Every XDP program among them whose helpers are here loads, and runs without a fault, since each passed the
//! kernel's verifier; whatever is refused is refused with a reason.

mod common;
#[path = "common/debian.rs"]
mod debian;

use common::{run, udp_frame};
use millrace_ebpf::{EngineKind, Fault, LoadError, Loader, MapFlags, Object, XdpAction};
use std::path::{Path, PathBuf};

/// A package's objects; `None` (and a line saying so) where they are neither installed nor to be had.
struct Package(Vec<PathBuf>);

impl Package {
    fn of(test: &str, objects: Result<Vec<PathBuf>, String>) -> Option<Package> {
        match objects {
            Ok(objects) => Some(Package(objects)),
            Err(why) => {
                println!("SKIP {test}: {why}");
                None
            }
        }
    }

    fn object(&self, file: &str) -> Option<&PathBuf> {
        self.0
            .iter()
            .find(|path| path.file_name().is_some_and(|n| n == file))
    }
}

/// A few frames: UDP, TCP with a tag, IPv6, ARP, the shortest there can be.
fn frames() -> Vec<Vec<u8>> {
    let udp = udp_frame(53);
    let mut tcp = udp.clone();
    tcp[23] = 6;
    tcp[46] = 0x50;
    tcp.splice(12..12, [0x81, 0, 0, 42]);
    let mut ipv6 = vec![0; 80];
    ipv6[12..16].copy_from_slice(&[0x86, 0xdd, 0x60, 0]);
    ipv6[18..22].copy_from_slice(&[0, 26, 17, 64]);
    ipv6[58..60].copy_from_slice(&[0, 26]);
    let mut arp = vec![0; 60];
    arp[12..14].copy_from_slice(&[8, 6]);
    vec![udp, tcp, ipv6, arp, vec![0; 14]]
}

fn is_xdp(section: &str) -> bool {
    section == "xdp" || ["xdp/", "xdp.", "xdp_"].iter().any(|p| section.starts_with(p))
}

/// What became of an object's programs.
#[derive(Default)]
struct Tally {
    /// Objects with XDP programs.
    xdp: usize,
    /// XDP programs that ran.
    ran: usize,
    refused: Vec<(String, LoadError)>,
}

/// Loads an object and runs its XDP programs. What is for another hook only has to load or be refused.
fn exercise(path: &Path, tally: &mut Tally) {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let bytes = std::fs::read(path).unwrap();
    let object = Object::parse(&bytes);
    if let Ok(object) = &object {
        let sections = object.programs().iter().map(|p| p.section.as_str());
        tally.xdp += usize::from(sections.clone().any(is_xdp));
        println!(
            "{name}: sections [{}], {} maps",
            sections.collect::<Vec<_>>().join(", "),
            object.maps().len()
        );
    }
    let loaded = match object.and_then(|object| Loader::new().cpus(2).load(&object)) {
        Ok(loaded) => loaded,
        Err(error) => {
            println!("{name}: refused: {error}");
            return tally.refused.push((name.into_owned(), error));
        }
    };
    for (program, error) in loaded.refused() {
        println!("{name} {program}: refused: {error}");
        tally.refused.push((format!("{name} {program}"), error.clone()));
    }
    for program in loaded.programs() {
        let (section, function) = (program.section(), program.name());
        if !is_xdp(section) {
            println!("{name} {function}: loaded, not run: section {section}");
            continue;
        }
        for engine in EngineKind::available() {
            let mut instance = program.instance(engine, 1).unwrap();
            let mut actions = Vec::new();
            for frame in frames() {
                let (verdict, _) = run(&mut instance, &frame);
                assert_eq!(
                    verdict.fault,
                    Fault::None,
                    "{name} {function}: {:?}",
                    instance.last_fault()
                );
                actions.push(verdict.action().name());
            }
            println!("{name} {function} on {}: {}", engine.name(), actions.join(" "));
        }
        tally.ran += 1;
    }
}

fn libxdp(test: &str) -> Option<Package> {
    Package::of(test, debian::libxdp())
}

#[test]
fn every_xdp_program_of_libxdp_and_xdp_tools_loads_and_runs() {
    let test = "every_xdp_program_of_libxdp_and_xdp_tools_loads_and_runs";
    let Some(package) = libxdp(test) else { return };
    let mut tally = Tally::default();
    for path in &package.0 {
        exercise(path, &mut tally);
    }
    println!("{} programs ran, {} refused", tally.ran, tally.refused.len());
    assert!(
        tally.xdp >= 10 && tally.ran >= tally.xdp,
        "{} XDP programs ran",
        tally.ran
    );
    // The other half of xdpdump hooks the kernel's functions.
    tally
        .refused
        .retain(|(name, _)| !name.starts_with("xdpdump_bpf.o"));
    assert!(tally.refused.is_empty(), "{:?}", tally.refused);
}

#[test]
fn xdp_filter_of_xdp_tools_filters_the_port_it_is_told() {
    let test = "xdp_filter_of_xdp_tools_filters_the_port_it_is_told";
    let Some(package) = libxdp(test) else { return };
    use XdpAction::{Drop, Pass};
    for (file, told, other) in [
        ("xdpfilt_alw_udp.o", Drop, Pass),
        ("xdpfilt_dny_udp.o", Pass, Drop),
    ] {
        let path = package.object(file).expect("xdp-filter is in the package");
        let object = Object::parse(&std::fs::read(path).unwrap()).unwrap();
        let loaded = Loader::new().cpus(2).load(&object).unwrap();
        let mut instance = loaded
            .program(None)
            .unwrap()
            .instance(EngineKind::default(), 1)
            .unwrap();
        let ports = loaded.map("filter_ports").unwrap();
        // Key: the port as on the wire. Value, per CPU: its low bits say source, destination, TCP, UDP, the rest counts.
        let key = u32::from(53u16.to_be()).to_ne_bytes();
        let all = [0xfu64.to_ne_bytes(); 2].concat();
        ports.update(&key, &all, MapFlags::Any).unwrap();
        for (port, action) in [(53, told), (54, other), (53, told)] {
            let (verdict, _) = run(&mut instance, &udp_frame(port));
            assert_eq!(verdict.action(), action, "{file}, port {port}");
        }
        let after = ports.lookup(&key).unwrap();
        assert_eq!(after[..8], all[..8], "{file}: the other CPU counts for itself");
        assert_ne!(after[8..], all[8..], "{file}: two hits are counted");
    }
}

fn cilium(test: &str) -> Option<Package> {
    Package::of(test, debian::cilium())
}

#[test]
fn cilium_s_test_program_calls_across_sections_and_returns_7_whichever_clang_built_it() {
    let test = "cilium_s_test_program_calls_across_sections_and_returns_7_whichever_clang_built_it";
    let Some(package) = cilium(test) else { return };
    // From clang 9 on its arguments are variables in `.rodata` and `.rodata.test`; from clang 8 on functions have a type.
    for (version, variables) in [(7, false), (9, true), (14, true)] {
        let file = format!("loader-clang-{version}-el.elf");
        let path = package.object(&file).expect("it is in the package");
        let object = Object::parse(&std::fs::read(path).unwrap()).unwrap();
        let mut loader = Loader::new();
        if variables {
            let words = [1u32, 2].map(u32::to_ne_bytes);
            loader = loader.global("arg", &words[0]).global("arg2", &words[1]);
        }
        let program = loader.load(&object).unwrap().program(Some("xdp_prog")).unwrap();
        for engine in EngineKind::available() {
            let mut instance = program.instance(engine, 0).unwrap();
            assert_eq!(run(&mut instance, &udp_frame(53)).0.raw, 7, "{file}");
        }
    }
}

#[test]
fn cilium_s_objects_load_or_are_refused_with_a_reason() {
    let test = "cilium_s_objects_load_or_are_refused_with_a_reason";
    let Some(package) = cilium(test) else { return };
    let mut tally = Tally::default();
    for path in &package.0 {
        exercise(path, &mut tally);
    }
    println!("{} programs ran, {} refused", tally.ran, tally.refused.len());
    assert!(tally.ran >= 5, "{} XDP programs ran", tally.ran);
    // Big-endian objects, and a variable or function that the loading program would have had to fill in.
    let known = ["big-endian", "`MY_CONST`", "`fwd`"];
    tally
        .refused
        .retain(|(_, error)| !known.iter().any(|k| error.to_string().contains(k)));
    assert!(tally.refused.is_empty(), "{:?}", tally.refused);
}
