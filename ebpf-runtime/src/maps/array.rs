//! `ARRAY` and `PERCPU_ARRAY`: values side by side, every index always there.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::locked::{LockPlace, hold};
use super::{MapDef, MapFlags, bounded, pad8};
use crate::Errno;
use crate::mem::arena::{Arena, Range};

/// Values by index; per-CPU, a block of them for each worker.
#[derive(Debug)]
pub(super) struct Array {
    arena: Arena,
    entries: u32,
    value: usize,
    stride: usize,
    /// Bytes between two workers' blocks; 0 when all share one.
    block: usize,
    cpus: u32,
    writable: bool,
    frozen: AtomicBool,
    lock: LockPlace,
}

/// Where an array's values lie: value `i` of worker `w` at `base + w * block + i * stride`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ArrayShape {
    pub base: u64,
    pub entries: u32,
    pub stride: u64,
    /// 0 when all workers share the values.
    pub block: u64,
    /// Workers that have values.
    pub cpus: u32,
}

impl Array {
    pub fn new(def: &MapDef, cpus: u32, percpu: bool) -> io::Result<Array> {
        let value = def.value_size as usize;
        let stride = pad8(value);
        let blocks = if percpu { cpus.max(1) } else { 1 };
        // Blocks end on cache lines, so that workers do not share one.
        let block = bounded(stride.checked_mul(def.max_entries as usize))?.next_multiple_of(64);
        Ok(Array {
            arena: Arena::new(bounded(block.checked_mul(blocks as usize))?)?,
            entries: def.max_entries,
            value,
            stride,
            block: if percpu { block } else { 0 },
            cpus: blocks,
            writable: def.flags & super::BPF_F_RDONLY_PROG == 0,
            frozen: AtomicBool::new(false),
            lock: LockPlace::default(),
        })
    }

    fn offset(&self, index: u32, cpu: u32) -> usize {
        self.block * cpu as usize + self.stride * index as usize
    }

    /// The value a program on worker `cpu` sees.
    #[inline]
    pub fn find(&self, key: &[u8], cpu: u32) -> Option<Range> {
        let index = index_of(key)?;
        let cpu = if self.block == 0 { 0 } else { cpu };
        (index < self.entries && cpu < self.cpus).then(|| {
            self.arena
                .range(self.offset(index, cpu), self.value, self.writable)
        })
    }

    /// The value that the byte at `addr` belongs to.
    pub fn range_at(&self, addr: u64) -> Option<Range> {
        let off = self.arena.offset_of(addr)?;
        let start = off.checked_div(self.block).unwrap_or(0) * self.block;
        let within = off - start;
        if within >= self.stride * self.entries as usize {
            return None;
        }
        let at = start + within / self.stride * self.stride;
        Some(self.arena.range(at, self.value, self.writable))
    }

    /// For lookups without a call.
    pub fn shape(&self) -> ArrayShape {
        ArrayShape {
            base: self.arena.addr(),
            entries: self.entries,
            stride: self.stride as u64,
            block: self.block as u64,
            cpus: self.cpus,
        }
    }

    /// Address of the first value: where global data lives.
    pub fn base(&self) -> u64 {
        self.arena.addr()
    }

    /// Each worker's value, padded when per-CPU.
    pub fn read(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let index = index_of(key).ok_or(Errno::INVAL)?;
        if index >= self.entries {
            return Err(Errno::NOENT);
        }
        if self.block == 0 {
            let mut out = vec![0; self.value];
            self.arena.read(self.offset(index, 0), &mut out);
            self.lock.hide(&mut out);
            return Ok(out);
        }
        let mut out = vec![0; self.stride * self.cpus as usize];
        for (cpu, value) in out.chunks_exact_mut(self.stride).enumerate() {
            self.arena
                .read(self.offset(index, cpu as u32), &mut value[..self.value]);
        }
        Ok(out)
    }

    /// Writes one worker's value, or all of them when `cpu` is `None`.
    pub fn write(&self, key: &[u8], data: &[u8], flags: MapFlags, cpu: Option<u32>) -> Result<(), Errno> {
        let index = index_of(key).ok_or(Errno::INVAL)?;
        if index >= self.entries {
            return Err(Errno::TOOBIG);
        }
        if flags == MapFlags::NoExist {
            return Err(Errno::EXIST);
        }
        let one = data.get(..self.value).ok_or(Errno::INVAL)?;
        match cpu {
            _ if self.block == 0 => self.lock.write(&self.arena, self.offset(index, 0), one),
            Some(cpu) if cpu < self.cpus => self.arena.write(self.offset(index, cpu), one),
            None if data.len() == self.stride * self.cpus as usize => {
                for (cpu, value) in data.chunks_exact(self.stride).enumerate() {
                    self.arena
                        .write(self.offset(index, cpu as u32), &value[..self.value]);
                }
            }
            _ => return Err(Errno::INVAL),
        }
        Ok(())
    }

    /// Says where values have their lock.
    pub fn set_lock(&self, at: u32) {
        if self.block == 0 {
            self.lock.set(at, self.value);
        }
    }

    /// Reads one value while its lock is held.
    pub fn read_locked(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let lock = self.lock.get()?;
        let index = index_of(key).ok_or(Errno::INVAL)?;
        if index >= self.entries {
            return Err(Errno::NOENT);
        }
        let off = self.offset(index, 0);
        hold(self.arena.u32(off + lock), || self.read(key))?
    }

    /// Writes one value while its lock is held.
    pub fn write_locked(&self, key: &[u8], data: &[u8], flags: MapFlags) -> Result<(), Errno> {
        let lock = self.lock.get()?;
        let index = index_of(key).ok_or(Errno::INVAL)?;
        if index >= self.entries {
            return Err(Errno::TOOBIG);
        }
        let off = self.offset(index, 0);
        hold(self.arena.u32(off + lock), || self.write(key, data, flags, None))?
    }

    /// Refuses further writes from the control side (`BPF_MAP_FREEZE`).
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    pub fn is_frozen(&self) -> bool {
        self.frozen.load(Ordering::Relaxed)
    }
}

/// The index in a key, as the machine reads it.
#[inline]
pub(crate) fn index_of(key: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*key.first_chunk::<4>()?))
}

/// `get_next_key` of the kernel's arrays: an unknown or missing key starts over.
pub(super) fn next_index(key: Option<&[u8]>, entries: u32) -> Result<Vec<u8>, Errno> {
    let next = match key.and_then(index_of) {
        Some(index) if index < entries => index + 1,
        _ => 0,
    };
    if next < entries {
        Ok(next.to_ne_bytes().to_vec())
    } else {
        Err(Errno::NOENT)
    }
}
