//! The Linux kernel as oracle: loads a linked program with bpf(2) and runs it on a frame (`BPF_PROG_TEST_RUN`).
//!
//! Needs root. The attribute layouts are those of `union bpf_attr` in linux/bpf.h.
#![allow(unsafe_code, dead_code)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use millrace_ebpf::{Map, MapFlags, MapType, Program};

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP: i64 = 1;
const MAP_UPDATE: i64 = 2;
const PROG_LOAD: i64 = 5;
const TEST_RUN: i64 = 10;
const MAP_FREEZE: i64 = 22;
const PROG_TYPE_XDP: u32 = 6;

#[repr(C, align(8))]
struct Attr([u8; 152]);

impl Attr {
    fn new() -> Attr {
        Attr([0; 152])
    }

    fn u32(mut self, at: usize, value: u32) -> Attr {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn u64(mut self, at: usize, value: u64) -> Attr {
        self.0[at..at + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }

    fn ptr<T>(self, at: usize, slice: &[T]) -> Attr {
        self.u64(at, slice.as_ptr().expose_provenance() as u64)
    }

    fn get(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().unwrap())
    }
}

fn bpf(cmd: i64, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: `attr` is a `union bpf_attr` of the size given; every pointer in it was taken from a slice that its caller
    // keeps alive over the call, with that slice's length in the field that goes with it.
    let result = unsafe { libc::syscall(libc::SYS_bpf, cmd, attr.0.as_mut_ptr(), attr.0.len()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: bpf(2) just returned this descriptor to us; nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// A map in the kernel, made like one of ours.
pub struct KernelMap {
    fd: OwnedFd,
    value_size: usize,
}

impl KernelMap {
    fn like(map: &Map, inner: Option<&KernelMap>) -> io::Result<KernelMap> {
        let def = map.def();
        let mut attr = Attr::new()
            .u32(0, def.kind as u32)
            .u32(4, def.key_size)
            .u32(8, def.value_size)
            .u32(12, def.max_entries)
            .u32(16, def.flags);
        if let Some(inner) = inner {
            attr = attr.u32(20, inner.fd.as_raw_fd() as u32);
        }
        let fd = owned(bpf(MAP_CREATE, &mut attr)?);
        Ok(KernelMap {
            fd,
            value_size: def.value_size as usize,
        })
    }

    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut attr = Attr::new()
            .u32(0, self.fd.as_raw_fd() as u32)
            .ptr(8, key)
            .ptr(16, value);
        bpf(MAP_UPDATE, &mut attr).map(drop)
    }

    pub fn lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        let value = vec![0u8; self.value_size];
        let mut attr = Attr::new()
            .u32(0, self.fd.as_raw_fd() as u32)
            .ptr(8, key)
            .ptr(16, &value);
        bpf(MAP_LOOKUP, &mut attr).ok().map(|_| value)
    }
}

/// A program in the kernel with its maps.
pub struct KernelProgram {
    fd: OwnedFd,
    pub maps: Vec<KernelMap>,
}

/// What a run gave.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: u32,
    pub frame: Vec<u8>,
}

impl KernelProgram {
    /// Loads the program with fresh maps that have the same contents. The error holds the verifier's log.
    pub fn load(program: &Arc<Program>) -> Result<KernelProgram, String> {
        let mut maps: Vec<KernelMap> = Vec::new();
        let ours = program.maps();
        for map in &ours {
            let inner = match map.kind() {
                MapType::ArrayOfMaps | MapType::HashOfMaps => ours
                    .iter()
                    .zip(&maps)
                    .find(|(m, _)| m.kind() == MapType::Array && !m.name().starts_with('.'))
                    .map(|(_, made)| made),
                _ => None,
            };
            let made = KernelMap::like(map, inner).map_err(|e| format!("map {}: {e}", map.name()))?;
            let plain = matches!(
                map.kind(),
                MapType::Array | MapType::Hash | MapType::LruHash | MapType::LpmTrie
            );
            if plain {
                for (key, value) in map.iter() {
                    made.update(&key, &value)
                        .map_err(|e| format!("map {}: {e}", map.name()))?;
                }
            }
            let read_only = map.kind() == MapType::Array
                && map.update(
                    &[0; 4],
                    &vec![0; map.def().value_size as usize],
                    MapFlags::NoExist,
                ) == Err(millrace_ebpf::Errno::PERM);
            if read_only {
                let _ = bpf(MAP_FREEZE, &mut Attr::new().u32(0, made.fd.as_raw_fd() as u32));
            }
            maps.push(made);
        }
        let fd = load(program, &maps)?;
        Ok(KernelProgram { fd, maps })
    }

    /// Loads the program over maps that exist.
    pub fn load_with(program: &Arc<Program>, maps: &[KernelMap]) -> Result<KernelProgram, String> {
        Ok(KernelProgram {
            fd: load(program, maps)?,
            maps: Vec::new(),
        })
    }

    /// Runs it once.
    pub fn run(&self, frame: &[u8]) -> io::Result<Outcome> {
        let out = vec![0u8; 8192];
        let mut attr = Attr::new()
            .u32(0, self.fd.as_raw_fd() as u32)
            .u32(8, frame.len() as u32)
            .u32(12, out.len() as u32)
            .ptr(16, frame)
            .ptr(24, &out)
            .u32(32, 1);
        bpf(TEST_RUN, &mut attr)?;
        let len = attr.get(12) as usize;
        Ok(Outcome {
            verdict: attr.get(4),
            frame: out[..len].to_vec(),
        })
    }

    pub fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

fn load(program: &Arc<Program>, maps: &[KernelMap]) -> Result<OwnedFd, String> {
    let fds: Vec<i32> = maps.iter().map(|m| m.fd.as_raw_fd()).collect();
    let code = program.bytecode();
    let log = vec![0u8; 1 << 16];
    let licence = b"GPL\0";
    let mut attr = Attr::new()
        .u32(0, PROG_TYPE_XDP)
        .u32(4, (code.len() / 8) as u32)
        .ptr(8, &code)
        .ptr(16, licence)
        .u32(24, 1)
        .u32(28, log.len() as u32)
        .ptr(32, &log)
        .ptr(120, &fds);
    match bpf(PROG_LOAD, &mut attr) {
        Ok(fd) => Ok(owned(fd)),
        Err(e) => {
            let end = log.iter().position(|b| *b == 0).unwrap_or(0);
            Err(format!("{e}: {}", String::from_utf8_lossy(&log[..end])))
        }
    }
}

/// Whether the kernel lets us; says why not.
pub fn available(test: &str) -> bool {
    let mut attr = Attr::new().u32(0, 2).u32(4, 4).u32(8, 4).u32(12, 1);
    match bpf(MAP_CREATE, &mut attr) {
        Ok(fd) => {
            drop(owned(fd));
            true
        }
        Err(e) => {
            println!("SKIP {test}: bpf(2) is not permitted here ({e}); run as root");
            false
        }
    }
}
