//! What an ELF object says: programs, maps, globals. Nothing here allocates more than the file's own size.

use crate::{LoadError, MapDef};

/// A parsed object file.
#[derive(Debug)]
pub struct Object {
    programs: Vec<ProgramInfo>,
    maps: Vec<MapDef>,
}

/// A program of an object, as the file names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramInfo {
    /// Function name.
    pub name: String,
    /// ELF section; any name is fine.
    pub section: String,
}

impl Object {
    /// Parses an ELF object made by `clang -target bpf`.
    pub fn parse(_bytes: &[u8]) -> Result<Object, LoadError> {
        Err(LoadError::Unsupported(
            "loading objects is not in this build yet".into(),
        ))
    }

    /// The programs, in file order.
    pub fn programs(&self) -> &[ProgramInfo] {
        &self.programs
    }

    /// The maps the object defines, its global data included.
    pub fn maps(&self) -> &[MapDef] {
        &self.maps
    }
}
