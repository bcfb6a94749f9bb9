//! BTF: the types an object describes itself with (Documentation/bpf/btf.rst of the kernel).
//!
//! Read: types and strings of `.BTF`, line information of `.BTF.ext`. Every offset is checked; memory stays in
//! proportion to the section's size.

use std::collections::HashMap;

use crate::{LoadError, SourceLine};

const MAGIC: u16 = 0xeb9f;
/// How many typedefs and qualifiers may lie between a name and its type (BTF can contain cycles).
const CHAIN: usize = 64;

/// Parsed `.BTF`.
#[derive(Debug, Default)]
pub(crate) struct Btf {
    types: Vec<Type>,
    strings: Vec<u8>,
}

/// One type; ids in it are 1-based, 0 is `void`.
#[derive(Debug, Clone)]
pub(crate) struct Type {
    pub name: u32,
    pub kind: Kind,
}

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// Integer, enum, float.
    Scalar {
        size: u32,
        /// An integer with a sign.
        signed: bool,
    },
    Ptr(u32),
    Array {
        elem: u32,
        len: u32,
    },
    Composite {
        size: u32,
        members: Vec<Member>,
    },
    /// Typedef, const, volatile, restrict, type tag.
    Alias(u32),
    Var {
        ty: u32,
    },
    DataSec {
        vars: Vec<SecVar>,
    },
    /// Function, prototype, forward declaration, declaration tag.
    Other,
}

#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub name: u32,
    pub ty: u32,
    /// Byte offset (bit fields do not occur where this is used).
    pub offset: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct SecVar {
    pub ty: u32,
}

fn bad(what: impl Into<String>) -> LoadError {
    LoadError::Btf(what.into())
}

/// A cursor over little-endian words.
pub(super) struct Words<'a>(pub(super) &'a [u8]);

impl Words<'_> {
    pub fn u32(&mut self) -> Result<u32, LoadError> {
        let (word, rest) = self
            .0
            .split_first_chunk::<4>()
            .ok_or_else(|| bad("a record is cut short"))?;
        self.0 = rest;
        Ok(u32::from_le_bytes(*word))
    }

    pub fn skip(&mut self, bytes: usize) -> Result<(), LoadError> {
        self.0 = self.0.get(bytes..).ok_or_else(|| bad("a record is cut short"))?;
        Ok(())
    }
}

pub(super) fn slice(data: &[u8], base: usize, off: u32, len: u32) -> Result<&[u8], LoadError> {
    let start = base
        .checked_add(off as usize)
        .ok_or_else(|| bad("an offset overflows"))?;
    let end = start
        .checked_add(len as usize)
        .ok_or_else(|| bad("a length overflows"))?;
    data.get(start..end).ok_or_else(|| {
        bad(format!(
            "a part at {start}..{end} lies past its {} bytes",
            data.len()
        ))
    })
}

/// Checks the magic number and gives the header's length.
pub(super) fn header(data: &[u8]) -> Result<usize, LoadError> {
    let head = data
        .first_chunk::<8>()
        .ok_or_else(|| bad("the header is cut short"))?;
    let magic = u16::from_le_bytes([head[0], head[1]]);
    if magic != MAGIC {
        return Err(bad(format!("magic {magic:#06x}, expected {MAGIC:#06x}")));
    }
    Ok(u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize)
}

impl Btf {
    /// Parses a `.BTF` section.
    pub fn parse(data: &[u8]) -> Result<Btf, LoadError> {
        let base = header(data)?;
        let mut words = Words(data.get(8..).unwrap_or_default());
        let (type_off, type_len) = (words.u32()?, words.u32()?);
        let (str_off, str_len) = (words.u32()?, words.u32()?);
        let strings = slice(data, base, str_off, str_len)?.to_vec();
        let mut words = Words(slice(data, base, type_off, type_len)?);
        let mut types = Vec::new();
        while !words.0.is_empty() {
            types.push(parse_type(&mut words)?);
        }
        Ok(Btf { types, strings })
    }

    /// A string; empty when the offset is wild.
    pub fn string(&self, off: u32) -> &str {
        let rest = self.strings.get(off as usize..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == 0).unwrap_or(rest.len());
        std::str::from_utf8(&rest[..end]).unwrap_or_default()
    }

    pub fn get(&self, id: u32) -> Option<&Type> {
        self.types.get(id.checked_sub(1)? as usize)
    }

    /// The type behind typedefs and qualifiers.
    pub fn resolve(&self, mut id: u32) -> Option<&Type> {
        for _ in 0..CHAIN {
            let ty = self.get(id)?;
            match ty.kind {
                Kind::Alias(next) => id = next,
                _ => return Some(ty),
            }
        }
        None
    }

    /// Size in bytes.
    pub fn size_of(&self, id: u32) -> Option<u32> {
        let mut id = id;
        let mut times = 1u32;
        for _ in 0..CHAIN {
            match self.resolve(id)?.kind {
                Kind::Scalar { size, .. } | Kind::Composite { size, .. } => return size.checked_mul(times),
                Kind::Ptr(_) => return times.checked_mul(8),
                Kind::Array { elem, len } => {
                    times = times.checked_mul(len)?;
                    id = elem;
                }
                _ => return None,
            }
        }
        None
    }

    /// The variables of a data section.
    pub fn section_vars(&self, name: &str) -> Vec<(String, u32)> {
        let section = self.types.iter().find_map(|t| match &t.kind {
            Kind::DataSec { vars } if self.string(t.name) == name => Some(vars),
            _ => None,
        });
        section
            .into_iter()
            .flatten()
            .filter_map(|var| {
                let ty = self.get(var.ty)?;
                match ty.kind {
                    Kind::Var { ty: inner } => Some((self.string(ty.name).to_owned(), inner)),
                    _ => None,
                }
            })
            .collect()
    }

    /// `__uint(name, value)` of bpf_helpers.h: a pointer to an array of that length.
    pub fn uint(&self, id: u32) -> Option<u32> {
        let Kind::Ptr(array) = self.resolve(id)?.kind else {
            return None;
        };
        match self.resolve(array)?.kind {
            Kind::Array { len, .. } => Some(len),
            _ => None,
        }
    }

    /// `__type(name, T)`: a pointer to T.
    pub fn pointee(&self, id: u32) -> Option<u32> {
        match self.resolve(id)?.kind {
            Kind::Ptr(target) => Some(target),
            _ => None,
        }
    }
}

fn parse_type(words: &mut Words<'_>) -> Result<Type, LoadError> {
    let name = words.u32()?;
    let info = words.u32()?;
    let size = words.u32()?;
    let len = (info & 0xffff) as usize;
    let bits = info >> 31 != 0;
    let kind = match (info >> 24) & 0x1f {
        1 => {
            let signed = words.u32()? >> 24 & 1 != 0;
            Kind::Scalar { size, signed }
        }
        2 => Kind::Ptr(size),
        3 => {
            let elem = words.u32()?;
            words.skip(4)?;
            Kind::Array {
                elem,
                len: words.u32()?,
            }
        }
        4 | 5 => {
            let mut members = Vec::new();
            for _ in 0..len {
                let (name, ty, offset) = (words.u32()?, words.u32()?, words.u32()?);
                let offset = if bits { offset & 0xff_ffff } else { offset };
                members.push(Member {
                    name,
                    ty,
                    offset: offset / 8,
                });
            }
            Kind::Composite { size, members }
        }
        6 => {
            words.skip(len * 8)?;
            Kind::Scalar { size, signed: false }
        }
        7 | 12 => Kind::Other,
        8..=11 | 18 => Kind::Alias(size),
        13 => {
            words.skip(len * 8)?;
            Kind::Other
        }
        14 => {
            words.skip(4)?;
            Kind::Var { ty: size }
        }
        15 => {
            let mut vars = Vec::new();
            for _ in 0..len {
                vars.push(SecVar { ty: words.u32()? });
                words.skip(8)?;
            }
            Kind::DataSec { vars }
        }
        16 => Kind::Scalar { size, signed: false },
        17 => {
            words.skip(4)?;
            Kind::Other
        }
        19 => {
            words.skip(len * 12)?;
            Kind::Scalar { size, signed: false }
        }
        other => return Err(bad(format!("type kind {other} is not known"))),
    };
    Ok(Type { name, kind })
}

/// Line information of one section, ordered by instruction.
#[derive(Debug, Default, Clone)]
pub(crate) struct Lines(Vec<Line>);

#[derive(Debug, Clone, Copy)]
struct Line {
    insn: u32,
    file: u32,
    text: u32,
    line: u32,
}

impl Lines {
    /// The source line of an instruction.
    pub fn at(&self, insn: usize, btf: &Btf) -> Option<SourceLine> {
        let after = self.0.partition_point(|l| l.insn as usize <= insn);
        let line = self.0.get(after.checked_sub(1)?)?;
        Some(SourceLine {
            file: btf.string(line.file).to_owned(),
            line: line.line,
            text: btf.string(line.text).to_owned(),
        })
    }
}

impl Lines {
    /// Takes over another section's lines about `len` instructions from `start`, now at `base`.
    pub fn append(&mut self, from: &Lines, start: usize, len: usize, base: usize) {
        let first = from.0.partition_point(|l| (l.insn as usize) < start);
        let inside = from.0[first..]
            .iter()
            .take_while(|l| (l.insn as usize) < start + len);
        self.0.extend(inside.map(|l| Line {
            insn: (l.insn as usize - start + base) as u32,
            ..*l
        }));
    }
}

/// Parses the line information of `.BTF.ext`, by section name.
pub(crate) fn parse_lines(data: &[u8], btf: &Btf) -> Result<HashMap<String, Lines>, LoadError> {
    let base = header(data)?;
    let mut words = Words(data.get(8..).unwrap_or_default());
    words.skip(8)?;
    let (line_off, line_len) = (words.u32()?, words.u32()?);
    let mut words = Words(slice(data, base, line_off, line_len)?);
    let mut out = HashMap::new();
    if words.0.is_empty() {
        return Ok(out);
    }
    let record = words.u32()? as usize;
    if record < 16 {
        return Err(bad(format!(
            "line records of {record} bytes, expected at least 16"
        )));
    }
    while !words.0.is_empty() {
        let section = btf.string(words.u32()?).to_owned();
        let count = words.u32()?;
        let mut lines = Vec::new();
        for _ in 0..count {
            let (insn, file, text, line) = (words.u32()? / 8, words.u32()?, words.u32()?, words.u32()? >> 10);
            words.skip(record - 16)?;
            lines.push(Line {
                insn,
                file,
                text,
                line,
            });
        }
        lines.sort_by_key(|l| l.insn);
        out.insert(section, Lines(lines));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(types: &[u32], strings: &[u8]) -> Vec<u8> {
        let type_len = types.len() as u32 * 4;
        let mut out = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        for word in [0, type_len, type_len, strings.len() as u32] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        types.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
        out.extend_from_slice(strings);
        out
    }

    #[test]
    fn sizes_follow_typedefs_and_arrays() {
        // 1: int (4 bytes), 2: typedef of 1, 3: array [3] of 2, 4: pointer to 3
        let types = [
            1,
            1 << 24,
            4,
            32,
            1,
            8 << 24,
            1,
            0,
            3 << 24,
            0,
            2,
            1,
            3,
            0,
            2 << 24,
            3,
        ];
        let btf = Btf::parse(&blob(&types, b"\0int\0")).unwrap();
        assert_eq!(btf.size_of(2), Some(4));
        assert_eq!(btf.size_of(3), Some(12));
        assert_eq!(btf.size_of(4), Some(8));
        assert_eq!(btf.uint(4), Some(3));
        assert_eq!(btf.size_of(9), None);
    }

    #[test]
    fn types_that_refer_to_themselves_end() {
        // 1: typedef of 1; 2: array of itself
        let types = [1, 8 << 24, 1, 0, 3 << 24, 0, 2, 1, 2];
        let btf = Btf::parse(&blob(&types, b"\0t\0")).unwrap();
        assert_eq!(btf.size_of(1), None);
        assert_eq!(btf.size_of(2), None);
    }

    #[test]
    fn cut_btf_is_an_error() {
        let whole = blob(&[1, 1 << 24, 4, 32], b"\0int\0");
        for len in 0..whole.len() {
            assert!(Btf::parse(&whole[..len]).is_err(), "{len} bytes");
        }
    }
}
