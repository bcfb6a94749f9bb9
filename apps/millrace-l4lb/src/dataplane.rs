//! The program's tables as the control plane writes and reads them.
//!
//! [`Tables`] is where they live: in our runtime ([`RuntimeTables`]), or in the kernel when a test lets that judge.
//! [`DataPlane`] knows their meaning. Nothing here decides anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_ebpf::{Errno, Map, MapFlags};
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::layout::{
    Backend, BackendStats, Flow, FlowKey, REASONS, RING_WORDS, Settings, Vip, VipKey, VipStats,
};
use crate::maglev::{NOBODY, SLOTS};

/// A table did not take or give what it should.
#[derive(Debug, Error)]
#[error("map {map}: {why}")]
pub struct TableError {
    /// The map.
    pub map: String,
    /// The runtime's or the kernel's words.
    pub why: String,
}

/// Maps by name, bytes in and out.
pub trait Tables: Send + Sync {
    /// Creates or replaces an entry.
    fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), TableError>;
    /// An entry, or none.
    fn lookup(&self, map: &str, key: &[u8]) -> Result<Option<Vec<u8>>, TableError>;
    /// An entry of a per-CPU map: a value a CPU.
    fn lookup_percpu(&self, map: &str, key: &[u8]) -> Result<Vec<Vec<u8>>, TableError>;
    /// Removes an entry; none there is no error.
    fn delete(&self, map: &str, key: &[u8]) -> Result<(), TableError>;
}

/// Maps of our runtime.
#[derive(Debug)]
pub struct RuntimeTables(pub BTreeMap<String, Arc<Map>>);

impl RuntimeTables {
    fn map(&self, name: &str) -> Result<&Map, TableError> {
        let missing = || TableError {
            map: name.into(),
            why: "the program has no such map".into(),
        };
        self.0.get(name).map(Arc::as_ref).ok_or_else(missing)
    }
}

fn refused(map: &str, errno: Errno) -> TableError {
    TableError {
        map: map.into(),
        why: errno.to_string(),
    }
}

impl Tables for RuntimeTables {
    fn update(&self, map: &str, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        self.map(map)?
            .update(key, value, MapFlags::Any)
            .map_err(|errno| refused(map, errno))
    }

    fn lookup(&self, map: &str, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        match self.map(map)?.lookup(key) {
            Ok(value) => Ok(Some(value)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(refused(map, errno)),
        }
    }

    fn lookup_percpu(&self, map: &str, key: &[u8]) -> Result<Vec<Vec<u8>>, TableError> {
        self.map(map)?
            .lookup_percpu(key)
            .map_err(|errno| refused(map, errno))
    }

    fn delete(&self, map: &str, key: &[u8]) -> Result<(), TableError> {
        match self.map(map)?.delete(key) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(refused(map, errno)),
        }
    }
}

/// The tables with their meaning.
#[derive(Clone)]
pub struct DataPlane {
    tables: Arc<dyn Tables>,
}

impl DataPlane {
    /// Over maps wherever they are.
    pub fn new(tables: Arc<dyn Tables>) -> DataPlane {
        DataPlane { tables }
    }

    /// Writes the settings that hold for all VIPs.
    pub fn set_settings(&self, settings: &Settings) -> Result<(), TableError> {
        self.tables.update("settings", &index(0), settings.as_bytes())
    }

    /// Makes a service or an address known.
    pub fn put_vip(&self, key: &VipKey, vip: &Vip) -> Result<(), TableError> {
        self.tables.update("vips", key.as_bytes(), vip.as_bytes())
    }

    /// Its packets pass to the host from now on.
    pub fn remove_vip(&self, key: &VipKey) -> Result<(), TableError> {
        self.tables.delete("vips", key.as_bytes())
    }

    /// Writes a backend's entry. Id 0 is nobody and stays empty.
    pub fn put_backend(&self, id: u16, backend: &Backend) -> Result<(), TableError> {
        self.tables
            .update("backends", &index(id.into()), backend.as_bytes())
    }

    /// Replaces a VIP's ring at once: the new one is written beside the old one, then one word says which counts.
    ///
    /// `table` is [`crate::maglev::table`]'s and `ids` gives each of its members a backend id. A packet that read the word
    /// before the change may still look into the ring that the next call rewrites; it finds one backend or the other
    /// there, both of them right a moment ago.
    pub fn write_ring(&self, vip: u32, table: &[u16], ids: &[u16]) -> Result<(), TableError> {
        let next = self.active_ring(vip)? ^ 1;
        let mut slots = vec![0u16; RING_WORDS];
        for (slot, member) in slots.iter_mut().zip(&table[..table.len().min(SLOTS)]) {
            *slot = if *member == NOBODY {
                0
            } else {
                ids.get(usize::from(*member)).copied().unwrap_or(0)
            };
        }
        self.tables
            .update("rings", &index(vip * 2 + next), slots.as_bytes())?;
        self.tables.update("active_ring", &index(vip), next.as_bytes())
    }

    /// The backend id in the ring's slot of a flow; 0: nobody.
    pub fn ring_choice(&self, vip: u32, hash: u64) -> Result<u16, TableError> {
        let ring = self
            .tables
            .lookup("rings", &index(vip * 2 + self.active_ring(vip)?))?
            .unwrap_or_default();
        let at = (hash % SLOTS as u64) as usize * 2;
        Ok(ring
            .get(at..at + 2)
            .map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]])))
    }

    fn active_ring(&self, vip: u32) -> Result<u32, TableError> {
        Ok(self.read::<u32>("active_ring", &index(vip))?.unwrap_or(0) & 1)
    }

    /// What the connection table knows about a flow.
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, TableError> {
        self.read("flows", key.as_bytes())
    }

    /// A VIP's counters.
    pub fn vip_stats(&self, vip: u32) -> Result<VipStats, TableError> {
        self.sum("vip_stats", vip, VipStats::plus)
    }

    /// A backend's counters.
    pub fn backend_stats(&self, id: u16) -> Result<BackendStats, TableError> {
        self.sum("backend_stats", id.into(), BackendStats::plus)
    }

    /// What became of packets, by reason.
    pub fn reasons(&self) -> Result<Vec<(&'static str, u64)>, TableError> {
        let one = |(at, name): (usize, &&'static str)| {
            Ok((*name, self.sum("reasons", at as u32, |a: u64, b| a + b)?))
        };
        REASONS.iter().enumerate().map(one).collect()
    }

    fn read<T: FromBytes>(&self, map: &str, key: &[u8]) -> Result<Option<T>, TableError> {
        self.tables
            .lookup(map, key)?
            .map(|bytes| decode(map, &bytes))
            .transpose()
    }

    fn sum<T>(&self, map: &str, key: u32, add: impl Fn(T, T) -> T) -> Result<T, TableError>
    where
        T: FromBytes + Immutable + Default,
    {
        let values = self.tables.lookup_percpu(map, &index(key))?;
        values
            .iter()
            .try_fold(T::default(), |total, bytes| Ok(add(total, decode(map, bytes)?)))
    }
}

fn decode<T: FromBytes>(map: &str, bytes: &[u8]) -> Result<T, TableError> {
    T::read_from_bytes(bytes).map_err(|_| TableError {
        map: map.into(),
        why: format!(
            "a value of {} bytes where the balancer expects another size",
            bytes.len()
        ),
    })
}

fn index(at: u32) -> [u8; 4] {
    at.to_ne_bytes()
}
