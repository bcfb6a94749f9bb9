//! The Linux kernel's own eBPF, to compare with: the same linked program over maps of the same contents, through bpf(2).
//!
//! Nothing of the runtime needs it. [`super::bpf`] makes the calls.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use super::bpf::{Attr, bpf, owned, possible_cpus};
use crate::{Map, MapType, Program};

const MAP_CREATE: i64 = 0;
const MAP_LOOKUP: i64 = 1;
const MAP_UPDATE: i64 = 2;
const PROG_LOAD: i64 = 5;
const TEST_RUN: i64 = 10;
const PROG_TYPE_XDP: u32 = 6;

fn wrong_size() -> io::Error {
    io::Error::from_raw_os_error(libc::EINVAL)
}

#[derive(Debug)]
struct KernelMap {
    name: String,
    fd: OwnedFd,
    key: usize,
    /// Bytes that a lookup copies out and an update in: all CPUs' values of a per-CPU map.
    room: usize,
}

impl KernelMap {
    fn like(map: &Map) -> io::Result<KernelMap> {
        let def = map.def();
        let mut attr = Attr::new()
            .u32(0, def.kind as u32)
            .u32(4, def.key_size)
            .u32(8, def.value_size)
            .u32(12, def.max_entries)
            .u32(16, def.flags);
        let value = def.value_size as usize;
        let room = match def.kind.is_percpu() {
            true => value.next_multiple_of(8) * possible_cpus(),
            false => value,
        };
        // SAFETY: BPF_MAP_CREATE takes no pointers here; what it returns is a new descriptor.
        let fd = unsafe { owned(bpf(MAP_CREATE, &mut attr)?) };
        Ok(KernelMap {
            name: map.name().into(),
            fd,
            key: def.key_size as usize,
            room,
        })
    }

    fn update(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        if key.len() != self.key || value.len() != self.room {
            return Err(wrong_size());
        }
        let mut attr = Attr::new().fd(0, &self.fd).input(8, key).input(16, value);
        // SAFETY: the kernel reads a key and a value of this map; both were just compared with its sizes.
        unsafe { bpf(MAP_UPDATE, &mut attr) }.map(drop)
    }

    fn lookup(&self, key: &[u8]) -> io::Result<Vec<u8>> {
        if key.len() != self.key {
            return Err(wrong_size());
        }
        let mut value = vec![0u8; self.room];
        let mut attr = Attr::new().fd(0, &self.fd).input(8, key).output(16, &mut value);
        // SAFETY: the kernel reads a key of this map and writes a value, for which there is room.
        unsafe { bpf(MAP_LOOKUP, &mut attr) }.map(|_| value)
    }
}

/// Maps in the kernel, by name.
#[derive(Debug)]
pub struct KernelMaps(Vec<KernelMap>);

impl KernelMaps {
    /// Maps like a program's own, with the same contents where those are plain: arrays and hashes that all workers share.
    pub fn like(program: &Program) -> io::Result<KernelMaps> {
        let mut all = Vec::new();
        for map in program.maps() {
            let made = KernelMap::like(&map)?;
            if matches!(map.kind(), MapType::Array | MapType::Hash | MapType::LruHash) {
                for (key, value) in map.iter() {
                    made.update(&key, &value)?;
                }
            }
            all.push(made);
        }
        Ok(KernelMaps(all))
    }

    fn find(&self, name: &str) -> io::Result<&KernelMap> {
        let found = self.0.iter().find(|m| m.name == name);
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT))
    }

    /// `BPF_MAP_UPDATE_ELEM`.
    pub fn update(&self, map: &str, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.find(map)?.update(key, value)
    }

    /// `BPF_MAP_LOOKUP_ELEM`; of a per-CPU map all CPUs' values, each padded to 8 bytes.
    pub fn lookup(&self, map: &str, key: &[u8]) -> io::Result<Vec<u8>> {
        self.find(map)?.lookup(key)
    }
}

/// A program in the kernel.
#[derive(Debug)]
pub struct KernelProgram {
    fd: OwnedFd,
}

impl KernelProgram {
    /// Loads the program over maps that were made for its object.
    pub fn load(program: &Arc<Program>, maps: &KernelMaps) -> io::Result<KernelProgram> {
        let fds: Vec<i32> = maps.0.iter().map(|m| m.fd.as_raw_fd()).collect();
        let code = program.bytecode();
        let licence = b"GPL\0";
        let mut attr = Attr::new()
            .u32(0, PROG_TYPE_XDP)
            .u32(4, (code.len() / 8) as u32)
            .input(8, &code)
            .input(16, licence)
            .input(120, &fds);
        // SAFETY: the kernel reads as many instructions as were counted, a string that ends with zero, and those entries
        // of the array that the code names by index, of which `bytecode` makes none that is not there.
        let fd = unsafe { owned(bpf(PROG_LOAD, &mut attr)?) };
        Ok(KernelProgram { fd })
    }

    /// Runs it on a frame (`BPF_PROG_TEST_RUN`), over and over on the same one; gives the last verdict.
    pub fn run(&self, frame: &[u8], repeat: u32) -> io::Result<u32> {
        let mut attr = Attr::new()
            .fd(0, &self.fd)
            .u32(8, frame.len() as u32)
            .input(16, frame)
            .u32(32, repeat);
        // SAFETY: the kernel reads the frame, whose length it is told, and writes nothing but `attr`.
        unsafe { bpf(TEST_RUN, &mut attr)? };
        Ok(attr.get(4))
    }
}

/// Whether the kernel compiles programs (`net.core.bpf_jit_enable`): with its interpreter a comparison would say little.
pub fn compiles() -> Option<bool> {
    let setting = std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable").ok()?;
    Some(setting.trim() != "0")
}
