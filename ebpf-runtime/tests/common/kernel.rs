//! The Linux kernel as oracle: loads a linked program with bpf(2) and runs it on a frame (`BPF_PROG_TEST_RUN`).
//!
//! Needs root. The attribute layouts are those of `union bpf_attr` in linux/bpf.h.
#![allow(unsafe_code, dead_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

#[path = "../../src/mem/bpf.rs"]
mod call;

use call::{Attr, possible_cpus};
use millrace_ebpf::{Map, MapFlags, MapType, Program};

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP: i64 = 1;
const MAP_UPDATE: i64 = 2;
const MAP_NEXT_KEY: i64 = 4;
const PROG_LOAD: i64 = 5;
const TEST_RUN: i64 = 10;
const PROG_BY_ID: i64 = 13;
const MAP_BY_ID: i64 = 14;
const MAP_FREEZE: i64 = 22;
const PROG_TYPE_XDP: u32 = 6;

fn bpf(cmd: i64, attr: &mut Attr) -> io::Result<i64> {
    // SAFETY: every pointer in `attr` was taken from a slice that its caller keeps alive over the call, with that slice's
    // length in the field that goes with it.
    unsafe { call::bpf(cmd, attr) }
}

fn owned(fd: i64) -> OwnedFd {
    // SAFETY: bpf(2) just returned this descriptor to us; nobody else has it.
    unsafe { call::owned(fd) }
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

    /// A map that somebody else made, which is like one of ours.
    pub fn by_id(id: u32, like: &Map) -> io::Result<KernelMap> {
        let fd = owned(bpf(MAP_BY_ID, &mut Attr::new().u32(0, id))?);
        let size = like.def().value_size as usize;
        let per_cpu = matches!(
            like.kind(),
            MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash
        );
        let value_size = if per_cpu {
            size.next_multiple_of(8) * possible_cpus()
        } else {
            size
        };
        Ok(KernelMap { fd, value_size })
    }

    /// All keys.
    pub fn keys(&self, key_size: usize) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0u8; key_size];
            let mut attr = Attr::new().fd(0, &self.fd).output(16, &mut next);
            if let Some(last) = keys.last() {
                attr = attr.input(8, last);
            }
            if bpf(MAP_NEXT_KEY, &mut attr).is_err() || keys.len() > 1 << 16 {
                return keys;
            }
            keys.push(next);
        }
    }

    pub fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }

    pub fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        let mut attr = Attr::new()
            .u32(0, self.fd.as_raw_fd() as u32)
            .input(8, key)
            .input(16, value);
        bpf(MAP_UPDATE, &mut attr).map(drop)
    }

    pub fn lookup(&self, key: &[u8]) -> Option<Vec<u8>> {
        let mut value = vec![0u8; self.value_size];
        let mut attr = Attr::new()
            .u32(0, self.fd.as_raw_fd() as u32)
            .input(8, key)
            .output(16, &mut value);
        bpf(MAP_LOOKUP, &mut attr).ok().map(|_| value)
    }
}

/// A program in the kernel with its maps.
pub struct KernelProgram {
    fd: OwnedFd,
    pub maps: Vec<KernelMap>,
}

/// What a run gave: the frame with its metadata before it.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub verdict: u32,
    pub frame: Vec<u8>,
    pub meta: usize,
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

    /// A program that somebody else loaded.
    pub fn by_id(id: u32, maps: Vec<KernelMap>) -> io::Result<KernelProgram> {
        let fd = owned(bpf(PROG_BY_ID, &mut Attr::new().u32(0, id))?);
        Ok(KernelProgram { fd, maps })
    }

    /// Runs it once.
    pub fn run(&self, frame: &[u8]) -> io::Result<Outcome> {
        let mut out = vec![0u8; 8192];
        // struct xdp_md: data, data_end, data_meta, ingress interface, queue, egress interface.
        let context = [0, frame.len() as u32, 0, 0, 0, 0];
        let mut context_after = [0u32; 6];
        let mut attr = Attr::new()
            .u32(0, self.fd.as_raw_fd() as u32)
            .u32(8, frame.len() as u32)
            .u32(12, out.len() as u32)
            .input(16, frame)
            .output(24, &mut out)
            .u32(32, 1)
            .u32(40, 24)
            .u32(44, 24)
            .input(48, &context)
            .output(56, &mut context_after);
        bpf(TEST_RUN, &mut attr)?;
        let len = attr.get(12) as usize;
        Ok(Outcome {
            verdict: attr.get(4),
            frame: out[..len].to_vec(),
            meta: context_after[0] as usize - context_after[2] as usize,
        })
    }

    pub fn fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

fn load(program: &Arc<Program>, maps: &[KernelMap]) -> Result<OwnedFd, String> {
    let fds: Vec<i32> = maps.iter().map(|m| m.fd.as_raw_fd()).collect();
    let code = program.bytecode();
    let mut log = vec![0u8; 1 << 16];
    let licence = b"GPL\0";
    let mut attr = Attr::new()
        .u32(0, PROG_TYPE_XDP)
        .u32(4, (code.len() / 8) as u32)
        .input(8, &code)
        .input(16, licence)
        .u32(24, 1)
        .u32(28, log.len() as u32)
        .output(32, &mut log)
        .input(120, &fds);
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

/// Keeps this thread on the first processor that it may run on; gives its number.
pub fn stay_on_one_cpu() -> io::Result<u32> {
    // SAFETY: a `cpu_set_t` is plain bits, and the calls read and write no more than its size.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let size = std::mem::size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut set) != 0 {
            return Err(io::Error::last_os_error());
        }
        let all = 0..libc::CPU_SETSIZE as usize;
        let cpu = all.into_iter().find(|c| libc::CPU_ISSET(*c, &set)).unwrap_or(0);
        libc::CPU_ZERO(&mut set);
        libc::CPU_SET(cpu, &mut set);
        if libc::sched_setaffinity(0, size, &set) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(cpu as u32)
    }
}

/// Moves this thread into a network namespace of its own, which ends with it.
pub fn leave_network() -> io::Result<()> {
    // SAFETY: concerns only what this thread sees of the network; no memory is touched.
    match unsafe { libc::unshare(libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
