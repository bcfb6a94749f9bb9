//! CO-RE relocations of `.BTF.ext` (`struct bpf_core_relo`, include/uapi/linux/bpf.h), those about the struct of the queue's
//! metadata. All others keep what the compiler wrote: they are about types that only a kernel has.

use std::collections::HashMap;

use super::btf::{Btf, Kind, Words, header, slice};
use crate::LoadError;
use crate::rx_meta::STRUCT;
use crate::rx_meta::relocate::{LocalField, MetaRelo, Question};

/// Bytes of one record that are read.
const RECORD: usize = 16;
/// Length of a header that says where the relocations are.
const HEADER: usize = 32;
/// Anonymous structs and unions that may lie round a field.
const DEPTH: usize = 16;

fn bad(what: impl Into<String>) -> LoadError {
    LoadError::Btf(what.into())
}

/// What `enum bpf_core_relo_kind` numbers; `None` keeps what the compiler wrote.
fn question(kind: u32) -> Option<Question> {
    Some(match kind {
        0 => Question::FieldOffset,
        1 => Question::FieldSize,
        2 => Question::FieldExists,
        3 => Question::FieldSigned,
        4 => Question::FieldLeftShift,
        5 => Question::FieldRightShift,
        8 => Question::TypeExists,
        9 => Question::TypeSize,
        _ => return None,
    })
}

/// The relocations about the struct, by section name and instruction there.
pub(crate) fn parse(data: &[u8], btf: &Btf) -> Result<HashMap<String, HashMap<usize, MetaRelo>>, LoadError> {
    let base = header(data)?;
    let mut out: HashMap<String, HashMap<usize, MetaRelo>> = HashMap::new();
    if base < HEADER {
        return Ok(out);
    }
    let mut words = Words(data.get(HEADER - 8..).unwrap_or_default());
    let (off, len) = (words.u32()?, words.u32()?);
    let mut words = Words(slice(data, base, off, len)?);
    if words.0.is_empty() {
        return Ok(out);
    }
    let record = words.u32()? as usize;
    if record < RECORD {
        return Err(bad(format!(
            "CO-RE records of {record} bytes, expected at least {RECORD}"
        )));
    }
    while !words.0.is_empty() {
        let section = words.u32()?;
        let count = words.u32()?;
        for _ in 0..count {
            let (insn, ty, access, kind) = (words.u32()?, words.u32()?, words.u32()?, words.u32()?);
            words.skip(record - RECORD)?;
            if let Some(question) = question(kind).filter(|_| is_ours(btf, ty)) {
                let relo = relocation(btf, question, ty, btf.string(access))?;
                let here = out.entry(btf.string(section).to_owned()).or_default();
                here.insert((insn / 8) as usize, relo);
            }
        }
    }
    Ok(out)
}

/// Whether a type is the struct, of whatever flavour.
fn is_ours(btf: &Btf, ty: u32) -> bool {
    let name = btf.resolve(ty).map(|ty| btf.string(ty.name)).unwrap_or_default();
    name.split("___").next() == Some(STRUCT)
}

/// `access` is a list of indices: 0, the member, and further ones where members without a name are in between.
fn relocation(btf: &Btf, question: Question, ty: u32, access: &str) -> Result<MetaRelo, LoadError> {
    if matches!(question, Question::TypeExists | Question::TypeSize) {
        let field = None;
        return Ok(MetaRelo { question, field });
    }
    let wrong = || {
        bad(format!(
            "the access `{access}` to struct {STRUCT} names none of its fields"
        ))
    };
    let mut path = access.split(':').map(|n| n.parse::<usize>().ok());
    if path.next() != Some(Some(0)) {
        return Err(bad(format!(
            "the access `{access}` is to an array of struct {STRUCT}; there is one a frame"
        )));
    }
    let (mut ty, mut offset) = (ty, 0u32);
    let mut name = "";
    for (depth, index) in path.enumerate() {
        let Some(Kind::Composite { members, .. }) = btf.resolve(ty).map(|t| &t.kind) else {
            return Err(wrong());
        };
        let member = index.and_then(|i| members.get(i)).ok_or_else(wrong)?;
        if depth > DEPTH || !name.is_empty() {
            return Err(wrong());
        }
        name = btf.string(member.name);
        offset = offset.checked_add(member.offset).ok_or_else(wrong)?;
        ty = member.ty;
    }
    if name.is_empty() {
        return Err(wrong());
    }
    let integer = match btf.resolve(ty).map(|t| &t.kind) {
        Some(Kind::Scalar { size, signed }) => Some((*size, *signed)),
        _ => None,
    };
    Ok(MetaRelo {
        question,
        field: Some(LocalField {
            name: name.to_owned(),
            offset,
            integer,
        }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 1: u32; 2: struct millrace_rx_meta___v2 { u32 rx_hash; struct 3; }; 3: struct { u32 mark; }; 4: struct other like 3.
    fn btf() -> Btf {
        let names = [
            "",
            "u32",
            "millrace_rx_meta___v2",
            "rx_hash",
            "mark",
            "other",
            "xdp",
            "0:0",
            "0:1:0",
            "0:1",
            "1:0",
            "0:7",
            "",
        ];
        let strings = names.join("\0").into_bytes();
        let at = |wanted: &str| {
            let found = strings
                .windows(wanted.len() + 1)
                .position(|w| w == [wanted.as_bytes(), b"\0"].concat());
            found.expect("a string") as u32
        };
        let composite = |members: u32| 4 << 24 | members;
        let types = [
            &[at("u32"), 1 << 24, 4, 32][..],
            &[at("millrace_rx_meta___v2"), composite(2), 8],
            &[at("rx_hash"), 1, 0, 0, 3, 32],
            &[0, composite(1), 4, at("mark"), 1, 0],
            &[at("other"), composite(1), 4, at("mark"), 1, 0],
        ]
        .concat();
        let len = 4 * types.len() as u32;
        let mut out = vec![0x9f, 0xeb, 1, 0, 24, 0, 0, 0];
        for word in [0, len, len, strings.len() as u32] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        types.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
        out.extend_from_slice(&strings);
        Btf::parse(&out).unwrap()
    }

    fn string(btf: &Btf, wanted: &str) -> u32 {
        (0..100).find(|at| btf.string(*at) == wanted).expect("a string")
    }

    /// `.BTF.ext` with these records: instruction, type, access, kind.
    fn ext(btf: &Btf, records: &[(u32, u32, &str, u32)]) -> Vec<u8> {
        let mut out = vec![0x9f, 0xeb, 1, 0, 32, 0, 0, 0];
        let len = 12 + 16 * records.len() as u32;
        let mut words = vec![0, 0, 0, 0, 0, len, 16, string(btf, "xdp"), records.len() as u32];
        for (insn, ty, access, kind) in records {
            words.extend([insn * 8, *ty, string(btf, access), *kind]);
        }
        words.iter().for_each(|w| out.extend_from_slice(&w.to_le_bytes()));
        out
    }

    #[test]
    fn fields_of_the_struct_are_found_by_name_whatever_its_flavour() {
        let btf = btf();
        let records = [
            (3, 2, "0:0", 0),
            (5, 2, "0:1:0", 2),
            (6, 4, "0:0", 0),
            (7, 2, "0:0", 9),
            (8, 2, "0:0", 6),
        ];
        let all = parse(&ext(&btf, &records), &btf).unwrap();
        let here = &all["xdp"];
        let told = |at: usize| {
            let relo = &here[&at];
            (
                relo.question,
                relo.field
                    .as_ref()
                    .map(|f| (f.name.as_str(), f.offset, f.integer)),
            )
        };
        let unsigned = Some((4, false));
        assert_eq!(told(3), (Question::FieldOffset, Some(("rx_hash", 0, unsigned))));
        assert_eq!(told(5), (Question::FieldExists, Some(("mark", 4, unsigned))));
        assert_eq!(told(7), (Question::TypeSize, None));
        assert_eq!(
            here.len(),
            3,
            "another struct and the type's own number are left alone"
        );
    }

    #[test]
    fn accesses_that_lead_to_no_field_are_errors() {
        let btf = btf();
        for access in ["0:7", "1:0", "0:1", "xdp", ""] {
            let error = parse(&ext(&btf, &[(0, 2, access, 0)]), &btf);
            assert!(matches!(error, Err(LoadError::Btf(_))), "{access}: {error:?}");
        }
    }

    #[test]
    fn cut_relocations_are_an_error() {
        let btf = btf();
        let whole = ext(&btf, &[(3, 2, "0:0", 0), (5, 2, "0:1:0", 2)]);
        for len in 32..whole.len() {
            assert!(parse(&whole[..len], &btf).is_err(), "{len} bytes");
        }
        let mut short = whole.clone();
        short[32] = 12;
        assert!(parse(&short, &btf).is_err(), "records too small");
        short[4] = 24;
        assert!(
            parse(&short, &btf).unwrap().is_empty(),
            "a header of before CO-RE"
        );
    }
}
