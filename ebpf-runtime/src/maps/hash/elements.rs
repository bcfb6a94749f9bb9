//! Elements that no key has, and making room in a full LRU map.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use super::{FREE, Found, HASH, Hash, LIVE, NEXT, SEEN, STATE};

/// Elements the hand looks at before it takes one that was seen.
const SWEEP: u32 = 128;

impl Hash {
    /// A free element. A new key also counts against `max_entries`.
    pub(super) fn take(&self, new_key: bool) -> Option<u32> {
        if new_key {
            let room = |n: u32| (n < self.max_entries).then_some(n + 1);
            self.count.fetch_update(AcqRel, Relaxed, room).ok()?;
        }
        let elem = self.pop();
        if elem.is_none() && new_key {
            self.count.fetch_sub(1, AcqRel);
        }
        elem
    }

    fn pop(&self) -> Option<u32> {
        let mut top = self.free.load(Acquire);
        while top as u32 != 0 {
            let elem = top as u32 - 1;
            let next = u64::from(self.field(elem, NEXT).load(Relaxed));
            let generation = (top >> 32).wrapping_add(1) << 32;
            match self
                .free
                .compare_exchange_weak(top, generation | next, AcqRel, Acquire)
            {
                Ok(_) => return Some(elem),
                Err(seen) => top = seen,
            }
        }
        self.fresh
            .fetch_update(AcqRel, Relaxed, |n| (n < self.capacity).then_some(n + 1))
            .ok()
    }

    /// Puts an unlinked element back.
    pub(super) fn give(&self, elem: u32, was_counted: bool) {
        self.field(elem, STATE).store(FREE, Relaxed);
        if was_counted {
            self.count.fetch_sub(1, AcqRel);
        }
        let mut top = self.free.load(Relaxed);
        loop {
            self.field(elem, NEXT).store(top as u32, Relaxed);
            let generation = (top >> 32).wrapping_add(1) << 32;
            match self
                .free
                .compare_exchange_weak(top, generation | u64::from(elem + 1), AcqRel, Relaxed)
            {
                Ok(_) => return,
                Err(seen) => top = seen,
            }
        }
    }

    /// Frees one element of a full LRU map. The caller holds no bucket.
    pub(super) fn evict(&self) -> bool {
        if !self.lru {
            return false;
        }
        let end = self.fresh.load(Acquire).clamp(1, self.capacity);
        let mut passed = 0u32;
        for _ in 0..SWEEP.max(end.saturating_mul(2)) {
            let elem = self.hand.fetch_add(1, Relaxed) % end;
            let state = self.field(elem, STATE);
            match state.load(Acquire) {
                FREE => continue,
                SEEN if passed < SWEEP => {
                    passed += 1;
                    let _ = state.compare_exchange(SEEN, LIVE, Relaxed, Relaxed);
                    continue;
                }
                _ => {}
            }
            // If the element is reused meanwhile, it is not in this bucket and the hand moves on.
            let bucket = self.field(elem, HASH).load(Relaxed) & self.mask;
            let _guard = self.lock(bucket);
            let mut before = None;
            let mut link = self.head(bucket).load(Relaxed);
            while link != 0 {
                if link - 1 == elem {
                    self.unlink(bucket, &Found { elem, before });
                    self.give(elem, true);
                    return true;
                }
                before = Some(link - 1);
                link = self.field(link - 1, NEXT).load(Relaxed);
            }
        }
        false
    }
}
