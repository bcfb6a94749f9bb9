//! What an ELF object says: programs, maps, globals. Memory and time stay in proportion to the file's size.

pub(crate) mod btf;
pub(crate) mod core_relo;
pub(crate) mod kconfig;
pub(crate) mod mapdefs;
mod places;

use std::collections::HashMap;
use std::sync::Arc;

use object::elf::{EM_BPF, EM_NONE, FileHeader64, SHF_EXECINSTR, SHN_UNDEF, SHT_NOBITS, SHT_PROGBITS};
use object::read::elf::{FileHeader, Rel, SectionHeader, Sym};
use object::{LittleEndian, elf};

use crate::insn::{self, Insn, SLOT, decode_all};
use crate::rx_meta::Asked;
use crate::rx_meta::relocate::MetaRelo;
use crate::{LoadError, MapDef};
use btf::{Btf, Lines};
use mapdefs::{ObjectMap, btf_map, data_map, is_data, legacy_map};
use places::{Places, functions, slot_of};

/// Largest object read, in bytes.
const FILE_MAX: usize = 64 << 20;
/// Largest data section, in bytes.
const DATA_MAX: u64 = 16 << 20;
/// All of them together: sections of zeroes take no room in the file.
const DATA_TOTAL: u64 = 64 << 20;
/// Most sections and symbols in an object.
const SECTIONS_MAX: usize = 4096;
const SYMBOLS_MAX: usize = 1 << 18;
/// Most maps in an object.
const MAPS_MAX: usize = 4096;
/// Most functions in an object.
const FUNCTIONS_MAX: usize = 4096;

// Relocation types of the BPF ELF ABI (Documentation/bpf/llvm_reloc.rst).
const R_BPF_64_64: u32 = 1;
const R_BPF_64_ABS64: u32 = 2;
const R_BPF_64_32: u32 = 10;

/// A parsed object file.
#[derive(Debug)]
pub struct Object {
    programs: Vec<ProgramInfo>,
    defs: Vec<MapDef>,
    pub(crate) maps: Vec<ObjectMap>,
    pub(crate) code: Vec<Code>,
    pub(crate) functions: Vec<Function>,
    pub(crate) globals: Vec<Global>,
    pub(crate) inits: Vec<MapInit>,
    pub(crate) btf: Arc<Btf>,
    starts: HashMap<(usize, usize), usize>,
}

/// A program of an object, as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Function name.
    pub name: String,
    /// ELF section; any name is fine.
    pub section: String,
}

/// An executable section.
#[derive(Debug)]
pub(crate) struct Code {
    /// ELF section index.
    pub section: usize,
    pub name: String,
    pub insns: Vec<Insn>,
    pub relocs: HashMap<usize, Target>,
    pub lines: Lines,
    /// CO-RE relocations about the queue's metadata.
    pub meta: HashMap<usize, MetaRelo>,
}

impl Code {
    /// The place an instruction calls or, wide, takes the address of: ELF section and instruction there.
    pub fn callee(&self, at: usize) -> Option<(usize, i64)> {
        let insn = self.insns.get(at)?;
        let call = insn.code == insn::CALL;
        match self.relocs.get(&at) {
            Some(Target::Code { section, offset }) => {
                let start = (*offset / SLOT as u64) as i64;
                if insn.is_wide() {
                    Some((*section, start + i64::from(insn.imm) / SLOT as i64))
                } else {
                    call.then(|| (*section, start + i64::from(insn.imm) + 1))
                }
            }
            None if call && insn.src == insn::CALL_LOCAL => {
                Some((self.section, at as i64 + 1 + i64::from(insn.imm)))
            }
            _ => None,
        }
    }
}

/// A function symbol.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: String,
    /// Index in [`Object::code`].
    pub code: usize,
    /// First instruction and how many.
    pub start: usize,
    pub len: usize,
    pub is_program: bool,
}

/// What a relocation refers to.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// A map, by index in [`Object::maps`].
    Map(usize),
    /// A place in a data section, to which the instruction's own immediate is added.
    Data { map: usize, offset: u64 },
    /// A place in an executable section, likewise.
    Code { section: usize, offset: u64 },
    /// A symbol that is not in the object.
    Extern { name: String, weak: bool },
}

/// A global variable.
#[derive(Debug)]
pub(crate) struct Global {
    pub name: String,
    pub map: usize,
    pub offset: usize,
    pub size: usize,
}

/// An entry that a map of maps or a program array has from the start.
#[derive(Debug)]
pub(crate) struct MapInit {
    pub map: usize,
    pub index: u32,
    pub target: Target,
}

fn bad(what: impl Into<String>) -> LoadError {
    LoadError::Elf(what.into())
}

struct Symbol {
    name: String,
    section: usize,
    value: u64,
    size: u64,
    kind: elf::SymbolType,
    global: bool,
    weak: bool,
}

type Header = FileHeader64<LittleEndian>;

impl Object {
    /// Parses an ELF object made by `clang -target bpf`.
    pub fn parse(bytes: &[u8]) -> Result<Object, LoadError> {
        if bytes.len() > FILE_MAX {
            return Err(bad(format!(
                "{} bytes are more than the limit of {FILE_MAX}",
                bytes.len()
            )));
        }
        let aligned = Aligned::new(bytes);
        parse(aligned.bytes())
    }

    /// The programs, in file order.
    pub fn programs(&self) -> &[ProgramInfo] {
        &self.programs
    }

    /// The function that begins at an instruction of an ELF section.
    pub(crate) fn function_at(&self, section: usize, insn: usize) -> Option<usize> {
        self.starts.get(&(section, insn)).copied()
    }

    /// Names of the maps whose definitions ask to be pinned by name (`LIBBPF_PIN_BY_NAME`), so that objects that are loaded
    /// later share them.
    pub fn pinned_maps(&self) -> Vec<&str> {
        let pinned = self.maps.iter().filter(|map| map.pinned);
        pinned.map(|map| map.def.name.as_str()).collect()
    }

    /// The fields of `struct millrace_rx_meta` that any of its programs names.
    pub(crate) fn asks_of_meta(&self) -> Asked {
        let mut asked = Asked::default();
        let relocations = self.code.iter().flat_map(|code| code.meta.values());
        let fields = relocations.filter_map(|relo| relo.field.as_ref());
        fields.for_each(|field| asked.add(&field.name));
        asked
    }

    /// Whether some program of it reads the struct of a queue's metadata, `struct millrace_rx_meta`, so that it has to be
    /// loaded for a queue's layout ([`crate::Loader::hints`]).
    pub fn uses_rx_meta(&self) -> bool {
        self.code.iter().any(|code| !code.meta.is_empty())
    }

    /// The maps the object defines, its global data included.
    pub fn maps(&self) -> &[MapDef] {
        &self.defs
    }
}

/// A copy of the file at an address that ELF structs can be read from.
struct Aligned(Vec<u64>, usize);

impl Aligned {
    fn new(bytes: &[u8]) -> Aligned {
        let mut words = Vec::with_capacity(bytes.len().div_ceil(8));
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_ne_bytes(word));
        }
        Aligned(words, bytes.len())
    }

    fn bytes(&self) -> &[u8] {
        &object::pod::bytes_of_slice(&self.0)[..self.1]
    }
}

fn parse(data: &[u8]) -> Result<Object, LoadError> {
    let header = Header::parse(data).map_err(|e| bad(format!("{e}")))?;
    let endian = LittleEndian;
    header
        .endian()
        .map_err(|_| bad("it is big-endian; use -target bpfel"))?;
    let machine = header.e_machine(endian);
    if machine != EM_BPF && machine != EM_NONE {
        return Err(bad(format!("ELF machine {machine} is not BPF (247)")));
    }
    let sections = header
        .sections(endian, data)
        .map_err(|e| bad(format!("section headers: {e}")))?;
    let name_of = |s: &elf::SectionHeader64<LittleEndian>| {
        sections
            .section_name(endian, s)
            .map(|n| String::from_utf8_lossy(n).into_owned())
            .unwrap_or_default()
    };
    let contents = |s: &elf::SectionHeader64<LittleEndian>| {
        s.data(endian, data)
            .map_err(|e| bad(format!("section `{}`: {e}", name_of(s))))
    };

    let table = sections
        .symbols(endian, data, elf::SHT_SYMTAB)
        .map_err(|e| bad(format!("symbol table: {e}")))?;
    if sections.len() > SECTIONS_MAX || table.len() > SYMBOLS_MAX {
        return Err(bad(format!(
            "{} sections and {} symbols are too many",
            sections.len(),
            table.len()
        )));
    }
    let mut symbols = Vec::new();
    for sym in table.iter() {
        let name = sym
            .name(endian, table.strings())
            .map_err(|e| bad(format!("symbol name: {e}")))?;
        symbols.push(Symbol {
            name: String::from_utf8_lossy(name).into_owned(),
            section: usize::from(sym.st_shndx(endian).0),
            value: sym.st_value(endian),
            size: sym.st_size(endian),
            kind: sym.st_type(),
            global: sym.st_bind() != elf::STB_LOCAL,
            weak: sym.st_bind() == elf::STB_WEAK,
        });
    }

    let find = |wanted: &str| sections.iter().find(|s| name_of(s) == wanted);
    let btf = match find(".BTF") {
        Some(s) => Btf::parse(contents(s)?)?,
        None => Btf::default(),
    };
    let (mut lines, mut meta) = match find(".BTF.ext") {
        Some(s) => (
            btf::parse_lines(contents(s)?, &btf)?,
            core_relo::parse(contents(s)?, &btf)?,
        ),
        None => Default::default(),
    };

    let mut maps: Vec<ObjectMap> = Vec::new();
    let mut data_total = 0;
    let mut code = Vec::new();
    for (index, section) in sections.iter().enumerate() {
        let name = name_of(section);
        let kind = section.sh_type(endian);
        let size = section.sh_size(endian);
        if kind == SHT_PROGBITS && section.sh_flags(endian).0 & SHF_EXECINSTR.0 != 0 && size > 0 {
            let bytes = contents(section)?;
            if !bytes.len().is_multiple_of(SLOT) {
                return Err(bad(format!(
                    "section `{name}`: {} bytes are no whole number of instructions",
                    size
                )));
            }
            let lines = lines.remove(&name).unwrap_or_default();
            let meta = meta.remove(&name).unwrap_or_default();
            code.push(Code {
                section: index,
                name,
                insns: decode_all(bytes),
                relocs: HashMap::new(),
                lines,
                meta,
            });
        } else if name == ".maps" {
            let len = size;
            let here: HashMap<&str, &Symbol> = symbols
                .iter()
                .filter(|s| s.section == index)
                .map(|s| (s.name.as_str(), s))
                .collect();
            for (var, ty) in btf.section_vars(".maps").into_iter().take(MAPS_MAX) {
                let symbol = here
                    .get(var.as_str())
                    .ok_or_else(|| bad(format!("map `{var}` has no symbol")))?;
                if symbol.value > len {
                    return Err(bad(format!("map `{var}` lies outside its section")));
                }
                let parsed = btf_map(&btf, &var, ty, false)?;
                maps.push(ObjectMap {
                    def: parsed.def,
                    section: index,
                    offset: symbol.value,
                    initial: None,
                    data: false,
                    inner: parsed.inner,
                    values_at: parsed.values_at,
                    lock: parsed.lock,
                    unsupported: parsed.unsupported,
                    pinned: parsed.pinned,
                    kconfig: Vec::new(),
                });
            }
            if len > 0 && !maps.iter().any(|m| m.section == index) {
                return Err(bad("section `.maps` without BTF; compile with -g"));
            }
        } else if name == "maps" {
            legacy_section(index, contents(section)?, &symbols, &mut maps)?;
        } else if is_data(&name) && size > 0 {
            data_total += size.min(DATA_TOTAL);
            if data_total > DATA_TOTAL {
                return Err(bad(format!(
                    "its data sections together exceed the limit of {DATA_TOTAL} bytes"
                )));
            }
            if size > DATA_MAX {
                return Err(bad(format!(
                    "section `{name}`: {size} bytes are more than the limit of {DATA_MAX}"
                )));
            }
            let initial = if kind == SHT_NOBITS {
                None
            } else {
                Some(contents(section)?.to_vec())
            };
            maps.push(ObjectMap {
                def: data_map(&name, size as u32),
                section: index,
                offset: 0,
                initial,
                data: true,
                inner: None,
                values_at: None,
                lock: None,
                unsupported: None,
                pinned: false,
                kconfig: Vec::new(),
            });
        }
    }

    let undefined = |name: &str| {
        let symbol = symbols
            .iter()
            .find(|s| s.section == usize::from(SHN_UNDEF.0) && s.name == name);
        symbol.map(|s| s.weak)
    };
    let (kconfig, size) = kconfig::variables(&btf, undefined);
    if !kconfig.is_empty() {
        maps.push(ObjectMap {
            def: data_map(".kconfig", size as u32),
            // No section of the file holds them.
            section: usize::MAX,
            offset: 0,
            initial: None,
            data: true,
            inner: None,
            values_at: None,
            lock: None,
            unsupported: None,
            pinned: false,
            kconfig,
        });
    }
    if maps.len() > MAPS_MAX {
        return Err(bad(format!(
            "{} maps are more than the limit of {MAPS_MAX}",
            maps.len()
        )));
    }
    let places = Places::new(&maps, &code);
    let mut inits = Vec::new();
    for section in sections.iter() {
        let Some((rels, _)) = section
            .rel(endian, data)
            .map_err(|e| bad(format!("relocations: {e}")))?
        else {
            continue;
        };
        let applies_to = section.sh_info(endian) as usize;
        let at = places.code.get(&applies_to).copied();
        let is_maps = maps
            .iter()
            .any(|m| m.section == applies_to && m.values_at.is_some());
        if at.is_none() && !is_maps {
            continue;
        }
        for rel in rels {
            let (kind, sym) = (rel.r_type(endian).0, rel.r_sym(endian) as usize);
            let offset = rel.r_offset(endian);
            let symbol = symbols
                .get(sym)
                .ok_or_else(|| bad(format!("relocation to symbol {sym}")))?;
            let target = || {
                places.target_of(symbol).ok_or_else(|| LoadError::Relocation {
                    section: at.map(|i| code[i].name.clone()).unwrap_or_else(|| ".maps".into()),
                    insn: offset as usize / SLOT,
                    reason: format!(
                        "refers to `{}`, which is neither map, variable nor function",
                        symbol.name
                    ),
                })
            };
            match at {
                Some(i) if matches!(kind, R_BPF_64_64 | R_BPF_64_32) => {
                    let target = target()?;
                    code[i].relocs.insert(offset as usize / SLOT, target);
                }
                None if kind == R_BPF_64_ABS64 => {
                    if let Some((map, index)) = slot_of(&maps, applies_to, offset) {
                        inits.push(MapInit {
                            map,
                            index,
                            target: target()?,
                        });
                    }
                }
                _ => {}
            }
        }
    }

    let functions = functions(&symbols, &code, &places)?;
    let programs = functions
        .iter()
        .filter(|f| f.is_program)
        .map(|f| ProgramInfo {
            name: f.name.clone(),
            section: code[f.code].name.clone(),
        })
        .collect();
    let globals = symbols
        .iter()
        .filter(|s| s.kind == elf::STT_OBJECT && !s.name.is_empty())
        .filter_map(|s| {
            let map = *places.data.get(&s.section)?;
            let end = s.value.checked_add(s.size)?;
            (end <= u64::from(maps[map].def.value_size)).then(|| Global {
                name: s.name.clone(),
                map,
                offset: s.value as usize,
                size: s.size as usize,
            })
        })
        .chain(maps.iter().enumerate().flat_map(|(map, m)| {
            m.kconfig.iter().map(move |v| Global {
                name: v.name.clone(),
                map,
                offset: v.offset,
                size: v.size,
            })
        }))
        .collect();
    let supported = maps.iter().filter(|m| m.unsupported.is_none());
    let defs = supported.map(|m| m.def.clone()).collect();
    let starts = functions
        .iter()
        .enumerate()
        .map(|(i, f)| ((code[f.code].section, f.start), i))
        .collect();
    Ok(Object {
        programs,
        defs,
        maps,
        code,
        functions,
        globals,
        inits,
        btf: Arc::new(btf),
        starts,
    })
}

/// Definitions in a `maps` section: the symbols divide it into equal parts.
fn legacy_section(
    index: usize,
    bytes: &[u8],
    symbols: &[Symbol],
    maps: &mut Vec<ObjectMap>,
) -> Result<(), LoadError> {
    let mut here: Vec<&Symbol> = symbols
        .iter()
        .filter(|s| s.section == index && s.kind != elf::STT_SECTION && !s.name.is_empty())
        .collect();
    here.sort_by_key(|s| s.value);
    here.dedup_by_key(|s| s.value);
    for (i, symbol) in here.iter().enumerate() {
        let start = symbol.value as usize;
        let end = here.get(i + 1).map_or(bytes.len(), |next| next.value as usize);
        let part = bytes
            .get(start..end)
            .ok_or_else(|| bad(format!("map `{}` lies outside", symbol.name)))?;
        let (def, unsupported) = legacy_map(&symbol.name, part)?;
        maps.push(ObjectMap {
            def,
            unsupported,
            kconfig: Vec::new(),
            section: index,
            offset: symbol.value,
            initial: None,
            data: false,
            inner: None,
            values_at: None,
            lock: None,
            pinned: false,
        });
    }
    Ok(())
}
