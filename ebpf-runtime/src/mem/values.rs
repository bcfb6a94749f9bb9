//! Where the values of an array lie, for lookups that need nothing else of the map.

use super::arena::Range;
use crate::maps::{ArrayShape, Map};

/// Values side by side: that of index `i` for worker `w` begins `i * shape.stride + w * shape.block` behind the first.
#[derive(Clone, Copy)]
pub(super) struct Values {
    first: Range,
    shape: ArrayShape,
}

impl Values {
    /// Those of a map, if it is an array.
    pub fn of(map: &Map) -> Option<Values> {
        let shape = map.array_shape()?;
        let first = map.find(&0u32.to_ne_bytes(), 0)?;
        Some(Values { first, shape })
    }

    /// The value at an index for a worker. It is as much part of the map as the first one, by the array's shape.
    #[inline(always)]
    pub fn at(&self, index: u32, cpu: u32) -> Option<Range> {
        let cpu = if self.shape.block == 0 { 0 } else { cpu };
        if index >= self.shape.entries || cpu >= self.shape.cpus {
            return None;
        }
        let off = u64::from(index) * self.shape.stride + u64::from(cpu) * self.shape.block;
        Some(Range {
            ptr: self.first.ptr.wrapping_add(off as usize),
            ..self.first
        })
    }
}
