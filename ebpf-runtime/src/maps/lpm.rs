//! `LPM_TRIE`: longest-prefix match over keys `{ u32 prefixlen; u8 data[]; }` (Documentation/bpf/map_lpm_trie.rst).
//!
//! A path-compressed binary trie. Nodes lie in an arena and point to each other by index + 1. Writers take a mutex and
//! make one sequence number odd while they change links; readers take nothing, and walk again when the number moved.

use std::io;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::hash::Wait;
use super::{MapDef, MapFlags, bounded, pad8};
use crate::Errno;
use crate::mem::arena::{Arena, Range};

// Node layout.
const CHILD: usize = 0;
const PREFIX: usize = 8;
const KIND: usize = 12;
const DATA: usize = 16;

// Node kinds.
const FREE: u32 = 0;
/// Joins two branches; has no value.
const JOINT: u32 = 1;
const ENTRY: u32 = 2;

#[derive(Debug)]
pub(super) struct Lpm {
    nodes: Arena,
    stride: usize,
    value_at: usize,
    value: usize,
    data: usize,
    max_entries: u32,
    capacity: u32,
    root: AtomicU32,
    seq: AtomicU32,
    count: AtomicU32,
    writer: Mutex<Free>,
    writable: bool,
}

/// Nodes to be had; whoever holds it may change the trie.
#[derive(Debug, Default)]
struct Free {
    list: Vec<u32>,
    fresh: u32,
}

/// A place that points to a node.
#[derive(Clone, Copy)]
enum Link {
    Root,
    Child(u32, usize),
}

impl Lpm {
    pub fn new(def: &MapDef) -> io::Result<Lpm> {
        let data = def.key_size as usize - 4;
        let value = def.value_size as usize;
        let value_at = DATA + pad8(data);
        let stride = value_at + pad8(value);
        // Every entry but the first can bring a joint; a replacement holds a node more for a moment.
        let capacity = def.max_entries.checked_mul(2).and_then(|n| n.checked_add(8));
        let capacity = capacity.ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Lpm {
            nodes: Arena::new(bounded(stride.checked_mul(capacity as usize))?)?,
            stride,
            value_at,
            value,
            data,
            max_entries: def.max_entries,
            capacity,
            root: AtomicU32::new(0),
            seq: AtomicU32::new(0),
            count: AtomicU32::new(0),
            writer: Mutex::default(),
            writable: def.flags & super::BPF_F_RDONLY_PROG == 0,
        })
    }

    pub fn len(&self) -> u32 {
        self.count.load(Relaxed)
    }

    fn field(&self, node: u32, field: usize) -> &AtomicU32 {
        self.nodes.u32(node as usize * self.stride + field)
    }

    fn prefix(&self, node: u32) -> u32 {
        self.field(node, PREFIX).load(Relaxed)
    }

    fn kind(&self, node: u32) -> u32 {
        self.field(node, KIND).load(Relaxed)
    }

    fn child(&self, node: u32, side: usize) -> Option<u32> {
        self.field(node, CHILD + side * 4).load(Relaxed).checked_sub(1)
    }

    fn follow(&self, link: Link) -> Option<u32> {
        match link {
            Link::Root => self.root.load(Relaxed).checked_sub(1),
            Link::Child(node, side) => self.child(node, side),
        }
    }

    fn point(&self, link: Link, to: Option<u32>) {
        let to = to.map_or(0, |n| n + 1);
        match link {
            Link::Root => self.root.store(to, Relaxed),
            Link::Child(node, side) => self.field(node, CHILD + side * 4).store(to, Relaxed),
        }
    }

    /// Leading bits that a node's data has in common with `data`, at most `limit`.
    fn common(&self, node: u32, data: &[u8], limit: u32) -> u32 {
        let base = node as usize * self.stride + DATA;
        let mut bits = 0;
        for (i, byte) in data.iter().enumerate() {
            if bits >= limit {
                break;
            }
            let differ = self.nodes.read_byte(base + i) ^ byte;
            bits += differ.leading_zeros();
            if differ != 0 {
                break;
            }
        }
        bits.min(limit)
    }

    /// The key's prefix length and data: `EINVAL` when the length exceeds the data.
    fn split<'k>(&self, key: &'k [u8]) -> Result<(u32, &'k [u8]), Errno> {
        let (len, data) = key.split_first_chunk::<4>().ok_or(Errno::INVAL)?;
        let len = u32::from_ne_bytes(*len);
        if data.len() != self.data || len as usize > self.data * 8 {
            Err(Errno::INVAL)
        } else {
            Ok((len, data))
        }
    }

    /// The longest prefix that matches.
    pub fn find(&self, key: &[u8]) -> Option<Range> {
        let node = self.search(key, |node| node)?;
        Some(self.nodes.range(
            node as usize * self.stride + self.value_at,
            self.value,
            self.writable,
        ))
    }

    /// The node of the longest prefix that matches, and what `take` makes of it while it is there.
    fn search<T>(&self, key: &[u8], take: impl Fn(u32) -> T) -> Option<T> {
        let (len, data) = self.split(key).ok()?;
        let mut wait = Wait::default();
        loop {
            let seq = self.seq.load(Acquire);
            if seq & 1 == 0 {
                let found = self.walk(len, data).map(&take);
                fence(Acquire);
                if self.seq.load(Relaxed) == seq {
                    return found;
                }
            }
            wait.turn();
        }
    }

    fn walk(&self, len: u32, data: &[u8]) -> Option<u32> {
        let mut best = None;
        let mut at = self.root.load(Relaxed).checked_sub(1);
        // No path is longer than the data has bits; a reader led astray by a writer stops there too.
        for _ in 0..=self.data * 8 {
            let node = at.filter(|n| *n < self.capacity)?;
            let prefix = self.prefix(node);
            let matched = self.common(node, data, prefix.min(len));
            if matched < prefix {
                return best;
            }
            if self.kind(node) == ENTRY {
                best = Some(node);
            }
            if prefix as usize >= self.data * 8 || prefix >= len {
                return best;
            }
            at = self.child(node, bit(data, prefix));
            if at.is_none() {
                return best;
            }
        }
        best
    }

    /// The value that the byte at `addr` belongs to.
    pub fn range_at(&self, addr: u64) -> Option<Range> {
        let node = self.nodes.offset_of(addr)? / self.stride;
        let fits = node < self.capacity as usize;
        fits.then(|| {
            self.nodes
                .range(node * self.stride + self.value_at, self.value, self.writable)
        })
    }

    pub fn read(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let copy = |node: u32| {
            let mut value = vec![0; self.value];
            self.nodes
                .read(node as usize * self.stride + self.value_at, &mut value);
            value
        };
        self.search(key, copy).ok_or(Errno::NOENT)
    }

    fn writer(&self) -> MutexGuard<'_, Free> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets readers know that links change until the guard is dropped. The caller holds the mutex.
    fn changing(&self) -> Changing<'_> {
        let now = self.seq.load(Relaxed);
        self.seq.store(now.wrapping_add(1), Relaxed);
        fence(Release);
        Changing { seq: &self.seq, now }
    }

    fn take(&self, free: &mut Free) -> Option<u32> {
        if let Some(node) = free.list.pop() {
            return Some(node);
        }
        (free.fresh < self.capacity).then(|| {
            free.fresh += 1;
            free.fresh - 1
        })
    }

    fn give(&self, free: &mut Free, node: u32) {
        self.field(node, KIND).store(FREE, Relaxed);
        free.list.push(node);
    }

    fn fill(&self, node: u32, kind: u32, prefix: u32, data: &[u8], children: [Option<u32>; 2]) {
        self.field(node, KIND).store(kind, Relaxed);
        self.field(node, PREFIX).store(prefix, Relaxed);
        self.nodes.write(node as usize * self.stride + DATA, data);
        self.point(Link::Child(node, 0), children[0]);
        self.point(Link::Child(node, 1), children[1]);
    }

    /// Where a prefix hangs or would hang: the link, and the links on the way to it.
    fn locate(&self, len: u32, data: &[u8]) -> (Link, Vec<u32>) {
        let mut link = Link::Root;
        let mut path = Vec::new();
        while let Some(node) = self.follow(link) {
            let prefix = self.prefix(node);
            let matched = self.common(node, data, prefix.min(len));
            if matched != prefix || prefix == len {
                break;
            }
            path.push(node);
            link = Link::Child(node, bit(data, prefix));
        }
        (link, path)
    }

    /// Creates or replaces: `ENOSPC` when full.
    pub fn update(&self, key: &[u8], value: &[u8], flags: MapFlags) -> Result<(), Errno> {
        let (len, data) = self.split(key)?;
        let value = value.get(..self.value).ok_or(Errno::INVAL)?;
        let mut free = self.writer();
        let (link, _) = self.locate(len, data);
        let old = self.follow(link);
        let exact = old.filter(|n| self.prefix(*n) == len && self.common(*n, data, len) == len);
        let replaces = exact.is_some_and(|n| self.kind(n) == ENTRY);
        match flags {
            MapFlags::NoExist if replaces => return Err(Errno::EXIST),
            MapFlags::Exist if !replaces => return Err(Errno::NOENT),
            _ if !replaces && self.len() >= self.max_entries => return Err(Errno::NOSPC),
            _ => {}
        }
        let new = self.take(&mut free).ok_or(Errno::NOSPC)?;
        let _changing = self.changing();
        self.nodes
            .write(new as usize * self.stride + self.value_at, value);
        match (old, exact) {
            (_, Some(node)) => {
                self.fill(new, ENTRY, len, data, [self.child(node, 0), self.child(node, 1)]);
                self.point(link, Some(new));
                self.give(&mut free, node);
            }
            (None, None) => {
                self.fill(new, ENTRY, len, data, [None, None]);
                self.point(link, Some(new));
            }
            (Some(node), None) => {
                let shared = self.common(node, data, self.prefix(node).min(len));
                let side = self.bit_of(node, shared);
                let mut children = [None, None];
                children[side] = Some(node);
                if shared == len {
                    self.fill(new, ENTRY, len, data, children);
                    self.point(link, Some(new));
                } else {
                    let Some(joint) = self.take(&mut free) else {
                        self.give(&mut free, new);
                        return Err(Errno::NOSPC);
                    };
                    self.fill(new, ENTRY, len, data, [None, None]);
                    children[1 - side] = Some(new);
                    self.fill(joint, JOINT, shared, data, children);
                    self.point(link, Some(joint));
                }
            }
        }
        if !replaces {
            self.count.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn bit_of(&self, node: u32, at: u32) -> usize {
        let byte = self
            .nodes
            .read_byte(node as usize * self.stride + DATA + at as usize / 8);
        usize::from(byte >> (7 - at % 8) & 1)
    }

    /// Removes exactly this prefix.
    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let (len, data) = self.split(key)?;
        let mut free = self.writer();
        let (link, path) = self.locate(len, data);
        let exact =
            |n: &u32| self.kind(*n) == ENTRY && self.prefix(*n) == len && self.common(*n, data, len) == len;
        let node = self.follow(link).filter(exact).ok_or(Errno::NOENT)?;
        let _changing = self.changing();
        self.count.fetch_sub(1, Relaxed);
        match (self.child(node, 0), self.child(node, 1)) {
            (Some(_), Some(_)) => {
                self.field(node, KIND).store(JOINT, Relaxed);
                return Ok(());
            }
            (Some(only), None) | (None, Some(only)) => self.point(link, Some(only)),
            (None, None) => {
                self.point(link, None);
                // A joint with one branch left is not needed.
                if let (Some(&parent), Link::Child(_, side)) = (path.last(), link)
                    && self.kind(parent) == JOINT
                {
                    let above = match path.len().checked_sub(2).map(|i| path[i]) {
                        Some(grand) => Link::Child(grand, usize::from(self.child(grand, 1) == Some(parent))),
                        None => Link::Root,
                    };
                    self.point(above, self.child(parent, 1 - side));
                    self.give(&mut free, parent);
                }
            }
        }
        self.give(&mut free, node);
        Ok(())
    }

    /// The next key, longer prefixes before the shorter ones that contain them; an unknown key starts over.
    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let _writer = self.writer();
        let (mut at, mut path) = match key.and_then(|k| self.split(k).ok()) {
            Some((len, data)) => {
                let (link, path) = self.locate(len, data);
                let here = self
                    .follow(link)
                    .filter(|n| self.prefix(*n) == len && self.common(*n, data, len) == len);
                match here {
                    Some(node) => self.after(node, path),
                    None => self.first(),
                }
            }
            None => self.first(),
        };
        while let Some(node) = at {
            if self.kind(node) == ENTRY {
                let mut key = self.prefix(node).to_ne_bytes().to_vec();
                let mut data = vec![0; self.data];
                self.nodes.read(node as usize * self.stride + DATA, &mut data);
                key.extend_from_slice(&data);
                return Ok(key);
            }
            (at, path) = self.after(node, path);
        }
        Err(Errno::NOENT)
    }

    fn first(&self) -> (Option<u32>, Vec<u32>) {
        let mut path = Vec::new();
        let at = self.follow(Link::Root).map(|root| self.deepest(root, &mut path));
        (at, path)
    }

    /// The first node of a subtree in post-order; the way to it is added to `path`.
    fn deepest(&self, mut node: u32, path: &mut Vec<u32>) -> u32 {
        while let Some(next) = self.child(node, 0).or_else(|| self.child(node, 1)) {
            path.push(node);
            node = next;
        }
        node
    }

    fn after(&self, node: u32, mut path: Vec<u32>) -> (Option<u32>, Vec<u32>) {
        let Some(parent) = path.pop() else {
            return (None, path);
        };
        match self.child(parent, 1) {
            Some(other) if self.child(parent, 0) == Some(node) => {
                path.push(parent);
                let at = self.deepest(other, &mut path);
                (Some(at), path)
            }
            _ => (Some(parent), path),
        }
    }
}

struct Changing<'a> {
    seq: &'a AtomicU32,
    now: u32,
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        self.seq.store(self.now.wrapping_add(2), Release);
    }
}

fn bit(data: &[u8], at: u32) -> usize {
    data.get(at as usize / 8)
        .map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1))
}
