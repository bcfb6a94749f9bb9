//! Brings QEMU, kernels and guest tools into a cache folder through apt, installing nothing on the host.
//!
//! apt runs with a root of its own (empty package status, own source list), so the host's packages and settings are
//! neither used nor changed; the mirror is the one the host's own apt is configured with. Archives are unpacked side
//! by side and run from there.

use super::LabError;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// The lab's cache folder and what is in it.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
}

/// A kernel unpacked in the cache.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release, as `uname -r` prints it.
    pub release: String,
    /// The boot image.
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
}

/// A kernel series of Debian's that the lab can boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Series {
    /// 6.1, of bookworm.
    V6_1,
    /// 6.12, of trixie.
    V6_12,
    /// The newest of trixie-backports.
    Backports,
}

impl Series {
    /// The series that every run boots.
    pub const USUAL: [Self; 2] = [Self::V6_1, Self::V6_12];
    /// All there are.
    pub const ALL: [Self; 3] = [Self::V6_1, Self::V6_12, Self::Backports];

    /// As it is named on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::V6_1 => "6.1",
            Self::V6_12 => "6.12",
            Self::Backports => "backports",
        }
    }

    fn suite(self) -> &'static str {
        match self {
            Self::V6_1 => "bookworm",
            Self::V6_12 => "trixie",
            Self::Backports => "trixie-backports",
        }
    }
}

impl Cache {
    /// Opens the cache: `MILLRACE_CACHE`, else `.cache/guest` in the workspace.
    pub fn open() -> Result<Self, LabError> {
        let root = match std::env::var_os("MILLRACE_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/guest"),
        };
        fs::create_dir_all(&root).map_err(LabError::io(format!("making {}", root.display())))?;
        let root = root
            .canonicalize()
            .map_err(LabError::io("resolving the cache folder"))?;
        Ok(Self { root })
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The tree into which Debian's user-space packages (QEMU, busybox, ethtool) are unpacked.
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// The static busybox among them.
    pub fn busybox(&self) -> Result<PathBuf, LabError> {
        let tools = self.tools();
        [tools.join("usr/bin/busybox"), tools.join("bin/busybox")]
            .into_iter()
            .find(|p| p.is_file())
            .ok_or_else(|| LabError::Malformed("the fetched busybox has no binary".into()))
    }

    /// Makes sure that QEMU and the guest's tools are there.
    pub fn ensure_tools(&self) -> Result<(), LabError> {
        self.ensure(
            "tools",
            &[
                "qemu-system-x86/trixie-backports",
                "seabios",
                "busybox-static",
                "ethtool",
                "iperf3",
                "libc6",
            ],
            Some("trixie-backports"),
        )
    }

    /// Makes sure that a kernel is there.
    pub fn ensure_kernel(&self, series: Series) -> Result<Kernel, LabError> {
        let tree = format!("kernel-{}", series.name());
        let dir = self.root.join(&tree);
        let lock = self.lock()?;
        if !dir.join(".complete").exists() {
            let meta = format!("linux-image-amd64/{}", series.suite());
            self.update().map_err(missing(&[&meta]))?;
            let image = self
                .depends(&meta, &["linux-image-"])?
                .into_iter()
                .next()
                .ok_or_else(|| LabError::Unavailable(format!("the mirror names no kernel for {meta}")))?;
            // Newer ones keep kernel and modules in packages of their own.
            let mut packages = self.depends(&image, &["linux-binary-", "linux-modules-"])?;
            packages.push(image);
            let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
            self.download_only(&tree, &packages)?;
        }
        drop(lock);
        // The image lies in /boot, or beside its modules.
        let malformed = |what: &str| LabError::Malformed(format!("{what} in {}", dir.display()));
        let modules = [dir.join("usr/lib/modules"), dir.join("lib/modules")]
            .into_iter()
            .find_map(|d| find(&d, |_| true))
            .ok_or_else(|| malformed("no modules"))?;
        let release = modules
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default()
            .to_owned();
        let image = [
            dir.join("boot").join(format!("vmlinuz-{release}")),
            modules.join("vmlinuz"),
        ]
        .into_iter()
        .find(|p| p.is_file())
        .ok_or_else(|| malformed("no vmlinuz"))?;
        Ok(Kernel {
            release,
            image,
            modules,
        })
    }

    /// The packages that one depends on whose names start with one of these.
    fn depends(&self, package: &str, starts: &[&str]) -> Result<Vec<String>, LabError> {
        let out = self
            .apt("apt-cache", &["depends", package])
            .map_err(missing(&[package]))?;
        let wanted = |name: &&str| starts.iter().any(|start| name.starts_with(start));
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let names = text.lines().filter_map(|l| l.trim().strip_prefix("Depends: "));
        Ok(names.filter(wanted).map(str::to_owned).collect())
    }

    /// The ethtool that was released with a kernel: a newer one sets fields of a request that an older kernel refuses as
    /// reserved (6.14's `-X` on 6.1). Its libraries are those of the tools' tree.
    pub fn ethtool(&self, series: Series) -> Result<PathBuf, LabError> {
        // The tools' own is the newest there is.
        let (tree, newest) = match series {
            Series::Backports => ("tools".to_owned(), true),
            Series::V6_1 | Series::V6_12 => (format!("ethtool-{}", series.name()), false),
        };
        let dir = self.root.join(&tree);
        if !newest {
            let _lock = self.lock()?;
            if !dir.join(".complete").exists() {
                let package = format!("ethtool/{}", series.suite());
                self.update().map_err(missing(&[&package]))?;
                self.download_only(&tree, &[&package])?;
            }
        }
        ["usr/sbin/ethtool", "sbin/ethtool"]
            .into_iter()
            .map(|p| dir.join(p))
            .find(|p| p.is_file())
            .ok_or_else(|| LabError::Malformed("the fetched ethtool has no binary".into()))
    }

    /// Makes sure that packages and all they need are unpacked in a tree of their own.
    pub fn ensure(&self, tree: &str, packages: &[&str], target: Option<&str>) -> Result<(), LabError> {
        if self.root.join(tree).join(".complete").exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        if self.root.join(tree).join(".complete").exists() {
            return Ok(());
        }
        self.update().map_err(missing(packages))?;
        let mut args = vec!["-y", "-q", "--download-only", "install"];
        if let Some(t) = target {
            args.extend(["-t", t]);
        }
        args.extend(packages);
        let archives = self.archives();
        self.clean_archives()?;
        eprintln!("guest lab: fetching {} and what they need", packages.join(", "));
        self.apt("apt-get", &args).map_err(missing(packages))?;
        self.unpack(tree, &archives)
    }

    /// Downloads just these packages, without what they depend on.
    fn download_only(&self, tree: &str, packages: &[&str]) -> Result<(), LabError> {
        let archives = self.archives();
        self.clean_archives()?;
        eprintln!("guest lab: fetching {}", packages.join(", "));
        let mut args = vec!["-q", "download"];
        args.extend(packages);
        let out = self
            .apt_command("apt-get")?
            .args(&args)
            .current_dir(&archives)
            .output();
        checked("apt-get download", out).map_err(missing(packages))?;
        self.unpack(tree, &archives)
    }

    /// Held while something is fetched: another lab may share the folder.
    fn lock(&self) -> Result<fs::File, LabError> {
        let path = self.root.join("lock");
        let what = || format!("locking {}", path.display());
        let file = fs::File::create(&path).map_err(LabError::io(what()))?;
        file.lock().map_err(LabError::io(what()))?;
        Ok(file)
    }

    fn archives(&self) -> PathBuf {
        self.root.join("apt/cache/archives")
    }

    fn clean_archives(&self) -> Result<(), LabError> {
        let dir = self.archives();
        for entry in fs::read_dir(&dir)
            .map_err(LabError::io(format!("reading {}", dir.display())))?
            .flatten()
        {
            if entry.path().extension().is_some_and(|e| e == "deb") {
                fs::remove_file(entry.path()).map_err(LabError::io("removing an old archive"))?;
            }
        }
        Ok(())
    }

    fn unpack(&self, tree: &str, archives: &Path) -> Result<(), LabError> {
        let partial = self.root.join(format!("{tree}.partial"));
        let done = self.root.join(tree);
        for old in [&partial, &done] {
            if old.exists() {
                fs::remove_dir_all(old).map_err(LabError::io(format!("removing {}", old.display())))?;
            }
        }
        fs::create_dir_all(&partial).map_err(LabError::io(format!("making {}", partial.display())))?;
        for entry in fs::read_dir(archives)
            .map_err(LabError::io("reading the archives"))?
            .flatten()
        {
            let deb = entry.path();
            if deb.extension().is_some_and(|e| e == "deb") {
                let out = Command::new("dpkg-deb")
                    .arg("-x")
                    .arg(&deb)
                    .arg(&partial)
                    .output();
                checked(&format!("unpacking {}", deb.display()), out)?;
                fs::remove_file(&deb).map_err(LabError::io("removing an unpacked archive"))?;
            }
        }
        fs::write(partial.join(".complete"), b"").map_err(LabError::io("marking the tree complete"))?;
        fs::rename(&partial, &done).map_err(LabError::io(format!("naming {}", done.display())))
    }

    /// apt's own folders and lists; fetched once a run at most.
    fn update(&self) -> Result<(), LabError> {
        let apt = self.root.join("apt");
        let stamp = apt.join("updated");
        if stamp.exists() {
            return Ok(());
        }
        for dir in ["lists/partial", "cache/archives/partial", "dpkg", "empty.d"] {
            fs::create_dir_all(apt.join(dir)).map_err(LabError::io("making apt's folders"))?;
        }
        let write = |name: &str, text: &str| {
            fs::write(apt.join(name), text).map_err(LabError::io(format!("writing {name}")))
        };
        write("dpkg/status", "")?;
        let mirror = host_mirror()?;
        let mut sources = String::new();
        for (suite, components) in [
            ("bookworm", "main non-free-firmware"),
            ("trixie", "main non-free-firmware"),
            ("trixie-backports", "main"),
        ] {
            sources.push_str(&format!(
                "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {mirror} {suite} {components}\n"
            ));
        }
        write("sources.list", &sources)?;
        let dir = apt.display();
        write(
            "apt.conf",
            &format!(
                "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
                 Dir::Etc::sourceparts \"{dir}/empty.d\";\n\
                 Dir::Etc::parts \"{dir}/empty.d\";\n\
                 Dir::Etc::preferencesparts \"{dir}/empty.d\";\n\
                 Dir::State \"{dir}\";\n\
                 Dir::State::lists \"{dir}/lists\";\n\
                 Dir::State::status \"{dir}/dpkg/status\";\n\
                 Dir::Cache \"{dir}/cache\";\n\
                 APT::Sandbox::User \"\";\n\
                 APT::Architecture \"amd64\";\n\
                 APT::Install-Recommends \"false\";\n\
                 Acquire::Retries \"3\";\n\
                 Acquire::Languages \"none\";\n\
                 Acquire::Check-Valid-Until \"false\";\n\
                 Acquire::Check-Date \"false\";\n"
            ),
        )?;
        // A mirror that cannot be reached is not asked anew for each suite.
        static REFUSED: OnceLock<String> = OnceLock::new();
        if let Some(why) = REFUSED.get() {
            return Err(LabError::Unavailable(why.clone()));
        }
        eprintln!("guest lab: reading the package lists");
        if let Err(error) = self.apt("apt-get", &["-q", "update", "--error-on=any"]) {
            return Err(match error {
                LabError::Unavailable(why) => LabError::Unavailable(REFUSED.get_or_init(|| why).clone()),
                other => other,
            });
        }
        write("updated", "")
    }

    fn apt_command(&self, program: &str) -> Result<Command, LabError> {
        let mut c = Command::new(program);
        c.env("APT_CONFIG", self.root.join("apt/apt.conf"))
            .env("DEBIAN_FRONTEND", "noninteractive");
        Ok(c)
    }

    fn apt(&self, program: &str, args: &[&str]) -> Result<Output, LabError> {
        let out = self.apt_command(program)?.args(args).output();
        checked(&format!("{program} {}", args.join(" ")), out)
    }
}

/// The mirror that the host's own apt fetches Debian from; never written down anywhere but the cache.
fn host_mirror() -> Result<String, LabError> {
    let out = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(ORIGIN) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .output();
    if let Ok(out) = out {
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        if let Some(uri) = text.lines().filter_map(|l| l.strip_prefix("Debian ")).next() {
            return Ok(uri.trim().trim_end_matches('/').to_owned());
        }
    }
    // Before the first `apt-get update` the host's apt knows no origins: read its source files.
    let mut files: Vec<PathBuf> = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(dir) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(dir.flatten().map(|e| e.path()));
    }
    for file in files {
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        for line in text.lines() {
            let uri = line
                .strip_prefix("URIs:")
                .map(|rest| rest.trim().to_owned())
                .or_else(|| {
                    line.strip_prefix("deb ")
                        .and_then(|rest| rest.split(' ').find(|w| w.contains("://")).map(str::to_owned))
                });
            if let Some(uri) = uri
                && uri.trim_end_matches('/').ends_with("/debian")
            {
                return Ok(uri.trim_end_matches('/').to_owned());
            }
        }
    }
    Err(LabError::Unavailable(
        "this machine's apt has no Debian mirror configured, so QEMU and kernels cannot be fetched".into(),
    ))
}

/// Says what cannot be had.
fn missing<'a>(packages: &'a [&str]) -> impl FnOnce(LabError) -> LabError + 'a {
    |error| match error {
        LabError::Unavailable(why) => {
            LabError::Unavailable(format!("cannot fetch {}: {why}", packages.join(", ")))
        }
        other => other,
    }
}

fn checked(what: &str, out: std::io::Result<Output>) -> Result<Output, LabError> {
    let out = out.map_err(|e| LabError::Unavailable(format!("{what}: {e}")))?;
    if out.status.success() {
        return Ok(out);
    }
    let stderr = String::from_utf8_lossy(&out.stderr);
    let last = stderr
        .lines()
        .rev()
        .find(|l| !l.trim().is_empty())
        .unwrap_or("no message");
    Err(LabError::Unavailable(format!("{what} failed: {last}")))
}

fn find(dir: &Path, want: impl Fn(&str) -> bool) -> Option<PathBuf> {
    fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .find(|p| p.file_name().and_then(|n| n.to_str()).is_some_and(&want))
}
