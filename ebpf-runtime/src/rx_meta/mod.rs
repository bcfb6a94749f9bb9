//! `struct millrace_rx_meta`: what the device said about a frame, as a struct directly in front of it.
//!
//! A program declares the fields it wants and reads them from `data_meta`; its CO-RE relocations (kernel
//! Documentation/bpf/llvm_reloc.rst) name them. For a queue's [`HintLayout`] the struct has those of them that the queue
//! gives, and no others: [`RxMeta`] says where. [`relocate`] is what linking does to the program's instructions,
//! [`front`] what happens to each frame.

pub(crate) mod front;
pub(crate) mod relocate;

use std::fmt::Write as _;

use crate::{HintKind, HintLayout, LoadError};

/// The struct's name in programs; `___` and whatever follows it is a flavour of the same.
pub(crate) const STRUCT: &str = "millrace_rx_meta";

/// A field that the struct can have.
#[derive(Debug)]
struct Known {
    name: &'static str,
    size: u32,
    /// `None` is the mask that says which of the others this frame has: bit n for the kind of number n.
    kind: Option<HintKind>,
}

const fn known(name: &'static str, size: u32, kind: HintKind) -> Known {
    Known {
        name,
        size,
        kind: Some(kind),
    }
}

/// All of them, those of 8 bytes first, so that none needs padding before it.
const FIELDS: [Known; 11] = [
    known("rx_timestamp", 8, HintKind::RxTimestamp),
    known("rx_hash", 4, HintKind::RxHash),
    known("rx_hash_type", 4, HintKind::RxHashType),
    known("packet_type", 4, HintKind::PacketType),
    known("mark", 4, HintKind::Mark),
    known("csum_status", 4, HintKind::CsumStatus),
    known("header_len", 4, HintKind::HeaderLen),
    known("extracted", 4, HintKind::Extracted),
    Known {
        name: "valid",
        size: 4,
        kind: None,
    },
    known("vlan_tci", 2, HintKind::VlanTci),
    known("vlan_proto", 2, HintKind::VlanProto),
];

/// Which fields a program names, as bits by their place in [`FIELDS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Asked(u16);

impl Asked {
    /// Adds a field; a name that is none is left out.
    pub fn add(&mut self, name: &str) {
        if let Some(at) = FIELDS.iter().position(|field| field.name == name) {
            self.0 |= 1 << at;
        }
    }

    fn fields(self) -> impl Iterator<Item = &'static Known> {
        let asked = FIELDS.iter().enumerate();
        asked.filter(move |(at, _)| self.0 >> at & 1 != 0).map(|(_, f)| f)
    }
}

/// A field of the struct as it is for a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RxMetaField {
    /// Its name in the program.
    pub name: &'static str,
    /// Bytes from the struct's begin.
    pub offset: u32,
    /// Its size in bytes; all are unsigned, `vlan_proto` in network order.
    pub size: u32,
    kind: Option<HintKind>,
}

/// `struct millrace_rx_meta` as the programs of one object see it on a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RxMeta {
    asked: Asked,
    /// Whose layout it is for; `None`: loaded for no queue, where the type does not exist.
    family: Option<&'static str>,
    fields: Vec<RxMetaField>,
    size: u32,
    /// Everything that a program could ask for here.
    gives: Vec<&'static str>,
}

/// Whether a layout has the field.
fn gives(layout: &HintLayout, field: &Known) -> bool {
    match field.kind {
        None => true,
        // As with bpf_xdp_metadata_rx_vlan_tag: a tag has a protocol also where the device does not tell it.
        Some(HintKind::VlanProto) => layout.field(HintKind::VlanTci).is_some(),
        Some(kind) => layout.field(kind).is_some(),
    }
}

impl RxMeta {
    /// The struct for a layout: what was asked for and can be had, in natural alignment.
    pub(crate) fn new(asked: Asked, layout: Option<&HintLayout>) -> RxMeta {
        let mut fields = Vec::new();
        let mut end = 0u32;
        for field in asked.fields() {
            if !layout.is_some_and(|layout| gives(layout, field)) {
                continue;
            }
            let offset = end.next_multiple_of(field.size);
            end = offset + field.size;
            fields.push(RxMetaField {
                name: field.name,
                offset,
                size: field.size,
                kind: field.kind,
            });
        }
        let can = |layout| {
            FIELDS
                .iter()
                .filter(move |f| gives(layout, f))
                .map(|f| f.name)
                .collect()
        };
        RxMeta {
            asked,
            family: layout.map(HintLayout::family),
            fields,
            // The kernel takes metadata in units of 4 bytes (net/core/xdp.c, `xdp_metalen_invalid`).
            size: end.next_multiple_of(4),
            gives: layout.map(can).unwrap_or_default(),
        }
    }

    /// Its fields.
    pub fn fields(&self) -> &[RxMetaField] {
        &self.fields
    }

    /// Its size in bytes, a multiple of 4.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Whose layout it was made for, `None` if for no queue's.
    pub fn family(&self) -> Option<&'static str> {
        self.family
    }

    pub(crate) fn field(&self, name: &str) -> Option<&RxMetaField> {
        self.fields.iter().find(|field| field.name == name)
    }

    /// Whether the program says of some field that it wants it.
    pub(crate) fn is_asked_for(&self) -> bool {
        self.asked != Asked::default()
    }

    /// As C would declare it.
    pub fn declaration(&self) -> String {
        let mut out = format!("struct {STRUCT} {{");
        for field in &self.fields {
            let _ = write!(out, " __u{} {};", 8 * field.size, field.name);
        }
        out.push_str(" }");
        out
    }

    /// Refuses a queue on which the struct is another one.
    pub(crate) fn fits(&self, program: &str, layout: &HintLayout) -> Result<(), LoadError> {
        let there = RxMeta::new(self.asked, Some(layout));
        if there.fields == self.fields {
            return Ok(());
        }
        let here = match self.family {
            Some(family) => format!("{} for {family}", self.declaration()),
            None => "loaded for no queue".into(),
        };
        Err(LoadError::Layout {
            program: program.into(),
            loaded: here,
            queue: format!("{} on {}", there.declaration(), layout.family()),
        })
    }

    /// What is wrong with using a field that is not there, and what to do.
    pub(crate) fn absent(&self, name: &str) -> (String, String) {
        let Some(family) = self.family else {
            return (
                format!("`{STRUCT}.{name}` does not exist: the program is loaded for no queue"),
                format!(
                    "load it for one (`prog load` of a running instance, `--hints ixgbe` offline, `Loader::hints` in Rust), or guard the access with bpf_core_field_exists(m->{name})"
                ),
            );
        };
        if !FIELDS.iter().any(|field| field.name == name) {
            let all: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
            return (
                format!("`{STRUCT}.{name}` does not exist on any queue"),
                format!("the fields are {}", all.join(", ")),
            );
        }
        (
            format!("`{STRUCT}.{name}` does not exist: queues of {family} do not give it"),
            format!(
                "guard the access with bpf_core_field_exists(m->{name}), which is 0 here; these queues give {}",
                self.gives.join(", ")
            ),
        )
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{HintField, HintSource, Loc, NO_FLAGS, Test};

    pub(crate) fn field(kind: HintKind, offset: u8, width: u8) -> HintField {
        HintField {
            kind,
            loc: Some(Loc {
                offset,
                width,
                shift: 0,
                mask: u64::MAX,
            }),
            flags: NO_FLAGS,
            valid: None,
            table: None,
            source: HintSource::Hardware,
        }
    }

    pub(crate) fn layout() -> HintLayout {
        let tagged = Test {
            offset: 0,
            width: 1,
            mask: 1,
            value: 1,
            negate: false,
        };
        HintLayout::named("made-up")
            .with(field(HintKind::RxHash, 4, 4))
            .with(field(HintKind::RxTimestamp, 8, 8))
            .with(HintField {
                valid: Some(tagged),
                ..field(HintKind::VlanTci, 2, 2)
            })
    }

    pub(crate) fn asked(names: &[&str]) -> Asked {
        let mut asked = Asked::default();
        names.iter().for_each(|name| asked.add(name));
        asked
    }

    #[test]
    fn the_struct_has_what_is_asked_for_and_can_be_had_and_nothing_else() {
        let names = ["vlan_tci", "mark", "rx_hash", "no_such_field"];
        let meta = RxMeta::new(asked(&names), Some(&layout()));
        assert_eq!(
            meta.declaration(),
            "struct millrace_rx_meta { __u32 rx_hash; __u16 vlan_tci; }"
        );
        assert_eq!((meta.size(), meta.fields()[1].offset), (8, 4));
        let all: Vec<_> = FIELDS.iter().map(|f| f.name).collect();
        let meta = RxMeta::new(asked(&all), Some(&layout()));
        let offsets: Vec<_> = meta.fields().iter().map(|f| (f.name, f.offset)).collect();
        let wanted = [
            ("rx_timestamp", 0),
            ("rx_hash", 8),
            ("valid", 12),
            ("vlan_tci", 16),
            ("vlan_proto", 18),
        ];
        assert_eq!(offsets, wanted);
        assert_eq!(meta.size(), 20);
    }

    #[test]
    fn a_field_that_is_not_there_is_told_with_the_family_and_what_there_is() {
        let meta = RxMeta::new(asked(&["mark"]), Some(&layout()));
        let (what, remedy) = meta.absent("mark");
        assert!(
            what.contains("millrace_rx_meta.mark") && what.contains("made-up"),
            "{what}"
        );
        assert!(remedy.contains("bpf_core_field_exists(m->mark)"), "{remedy}");
        assert!(
            remedy.contains("rx_timestamp, rx_hash, valid, vlan_tci, vlan_proto"),
            "{remedy}"
        );
        assert!(meta.absent("colour").1.contains("packet_type"));
        assert!(
            RxMeta::new(asked(&["mark"]), None)
                .absent("mark")
                .1
                .contains("--hints")
        );
    }

    #[test]
    fn another_queue_fits_as_long_as_the_struct_is_the_same() {
        let moved = HintLayout::named("moved").with(field(HintKind::RxHash, 0, 4));
        let meta = RxMeta::new(asked(&["rx_hash"]), Some(&layout()));
        assert!(
            meta.fits("p", &moved).is_ok(),
            "the hash lies elsewhere in the write-back only"
        );
        let meta = RxMeta::new(asked(&["rx_hash", "rx_timestamp"]), Some(&layout()));
        let error = meta.fits("p", &moved).unwrap_err().to_string();
        assert!(error.contains("made-up") && error.contains("moved"), "{error}");
        assert!(RxMeta::new(asked(&["rx_hash"]), None).fits("p", &moved).is_err());
        assert!(RxMeta::new(asked(&["mark"]), None).fits("p", &moved).is_ok());
    }
}
