//! Values with a spin lock: reading and writing them while it is held.

use std::sync::atomic::AtomicU32;

use super::{Hash, NewValue};
use crate::Errno;
use crate::maps::MapFlags;
use crate::maps::locked::hold;

impl Hash {
    /// Says where values have their lock.
    pub fn set_lock(&self, at: u32) {
        if self.percpu.is_none() {
            self.value_lock.set(at, self.value);
        }
    }

    /// The word of an element that is its value's lock.
    fn lock_of(&self, elem: u32, lock: usize) -> &AtomicU32 {
        self.elems.u32(elem as usize * self.stride + self.value_at + lock)
    }

    /// The value, read while its lock is held.
    pub fn read_locked(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let lock = self.value_lock.get()?;
        let hash = self.hash(key);
        let bucket = hash & self.mask;
        let _guard = self.lock(bucket);
        let at = self.locate(bucket, key, hash).ok_or(Errno::NOENT)?;
        hold(self.lock_of(at.elem, lock), || self.read_elem(at.elem))
    }

    /// Replaces a value in place while its lock is held, or creates it.
    pub fn update_locked(&self, key: &[u8], value: &[u8], flags: MapFlags) -> Result<(), Errno> {
        let lock = self.value_lock.get()?;
        let value = NewValue::One(value, 0);
        self.check(&value)?;
        let hash = self.hash(key);
        let bucket = hash & self.mask;
        let guard = self.lock(bucket);
        match (self.locate(bucket, key, hash), flags) {
            (Some(_), MapFlags::NoExist) => Err(Errno::EXIST),
            (Some(at), _) => hold(self.lock_of(at.elem, lock), || {
                self.write_elem(at.elem, &value, false);
            }),
            (None, _) => {
                drop(guard);
                self.update(key, &value, flags)
            }
        }
    }
}
