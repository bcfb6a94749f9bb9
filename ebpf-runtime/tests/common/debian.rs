//! What the tests take from Debian: packages fetched through apt and unpacked into a cache folder, never installed.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Fails with what a person can act on.
pub type Outcome<T> = Result<T, String>;

/// Where fetched and made things are kept: `ebpf` in `MILLRACE_CACHE`, else in `.cache/guest` of the workspace.
pub fn cache() -> Outcome<PathBuf> {
    let root = match std::env::var_os("MILLRACE_CACHE") {
        Some(dir) => PathBuf::from(dir),
        None => {
            let here = Path::new(env!("CARGO_MANIFEST_DIR"));
            let workspace = here.ancestors().find(|dir| dir.join("Cargo.lock").is_file());
            workspace.unwrap_or(here).join(".cache/guest")
        }
    };
    let dir = root.join("ebpf");
    fs::create_dir_all(&dir).map_err(|e| format!("making {}: {e}", dir.display()))?;
    dir.canonicalize()
        .map_err(|e| format!("resolving {}: {e}", dir.display()))
}

/// Held while something in the cache is made: tests run in parallel, and several checkouts may share a cache.
pub fn lock(cache: &Path) -> Outcome<fs::File> {
    let path = cache.join("lock");
    let file = fs::File::create(&path).map_err(|e| format!("making {}: {e}", path.display()))?;
    file.lock()
        .map_err(|e| format!("locking {}: {e}", path.display()))?;
    Ok(file)
}

/// Makes a folder of the cache once: `make` fills a folder that gets its name when it is complete.
pub fn once(cache: &Path, name: &str, make: impl FnOnce(&Path) -> Outcome<()>) -> Outcome<PathBuf> {
    let done = cache.join(name);
    if done.exists() {
        return Ok(done);
    }
    let partial = cache.join(format!("{name}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial).map_err(|e| format!("removing {}: {e}", partial.display()))?;
    }
    fs::create_dir_all(&partial).map_err(|e| format!("making {}: {e}", partial.display()))?;
    make(&partial)?;
    fs::rename(&partial, &done).map_err(|e| format!("naming {}: {e}", done.display()))?;
    Ok(done)
}

/// Runs a command; its error is the last line it said.
pub fn run(command: &mut Command) -> Outcome<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let out = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("{name}: {e}"))?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    let last = said.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default();
    Err(format!("{name}: {} {last}", out.status))
}

/// Fetches a package into `dir`; gives the file.
pub fn fetch(package: &str, dir: &Path) -> Outcome<PathBuf> {
    let mut apt = Command::new("timeout");
    // As root apt would otherwise ask a user who may not write here.
    apt.args(["300", "apt-get", "-q", "-o", "Acquire::Retries=1", "-o"])
        .args(["APT::Sandbox::User=", "download", package])
        .current_dir(dir);
    run(&mut apt).map_err(|e| format!("{package} cannot be downloaded ({e})"))?;
    let entries = fs::read_dir(dir).map_err(|e| e.to_string())?;
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| "apt-get left no .deb".into())
}

/// Fetches a package and unpacks it, once; gives the root of its files.
pub fn unpacked(cache: &Path, package: &str) -> Outcome<PathBuf> {
    once(cache, &format!("package-{package}"), |dir| {
        let deb = fetch(package, dir)?;
        run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(dir))?;
        fs::remove_file(&deb).map_err(|e| format!("removing {}: {e}", deb.display()))
    })
}

/// Every `.o` and `.elf` below a folder, but no symbolic links.
pub fn objects(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![below.to_path_buf()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => dirs.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.retain(|path| path.extension().is_some_and(|e| e == "o" || e == "elf"));
    found.sort();
    found
}

/// A package's objects below a folder: installed ones, else from a download.
pub fn package_objects(package: &str, below: &str) -> Outcome<Vec<PathBuf>> {
    let installed = objects(Path::new(below));
    if !installed.is_empty() {
        return Ok(installed);
    }
    let cache = cache()?;
    let _lock = lock(&cache)?;
    let root = unpacked(&cache, package)?;
    Ok(objects(&root.join(below.trim_start_matches('/'))))
}

/// The objects of libxdp and xdp-tools.
pub fn libxdp() -> Outcome<Vec<PathBuf>> {
    let below = format!("/usr/lib/{}-linux-gnu/bpf", std::env::consts::ARCH);
    package_objects("libxdp1", &below)
}

/// The objects that cilium's Go loader is tested with.
pub fn cilium() -> Outcome<Vec<PathBuf>> {
    let below = "/usr/share/gocode/src/github.com/cilium/ebpf";
    package_objects("golang-github-cilium-ebpf-dev", below)
}
