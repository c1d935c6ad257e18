//! Images as people have them: Debian by debootstrap, and servers from its packages, a layer each on the same base.
//!
//! Made once per machine and recipe (most of a minute) and kept beside the example images. Not for: `up`; only tests and
//! benchmarks use them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::layout::{Layout, digest};
use crate::run::output;

/// Makes the layers.
const SCRIPT: &str = include_str!("debian.sh");
const NAME: &str = "debian-";
const MIRROR: &str = "http://deb.debian.org/debian/";
const PATH: &str =
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/bin";

/// The layout with all of them, `debian`, `nginx`, `redis` and `postgres`, made below `out` unless it is there.
pub(crate) fn build(out: &Path) -> Result<PathBuf> {
    let recipe = digest(format!("{SCRIPT}{:?}", images()).as_bytes());
    let path = out.join(format!("{NAME}{}", &recipe["sha256:".len()..][..12]));
    if path.join("index.json").exists() {
        return Ok(path);
    }
    fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let layers =
        tempfile::Builder::new().prefix(".layers-").tempdir_in(out).context("create a place to build")?;
    let mut script = Command::new("unshare");
    script.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "debian.sh"]);
    output(script.arg(mirror()).arg(layers.path()))?;
    let mut layout = Layout::new(out)?;
    let layer = |layout: &Layout, name: &str| {
        let file = layers.path().join(format!("{name}.diffid"));
        let diff_id = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        layout.compressed_layer(&layers.path().join(format!("{name}.tar.gz")), diff_id.trim())
    };
    let base = layer(&layout, "debian")?;
    for (name, run) in images() {
        if name == "debian" {
            layout.image(name, &[&base], &run)?;
        } else {
            let own = layer(&layout, name)?;
            layout.image(name, &[&base, &own], &run)?;
        }
    }
    layout.finish(&path)?;
    forget_former(out, NAME, &path)?;
    Ok(path)
}

/// Those of recipes that are no more, by the beginning of their names.
pub(crate) fn forget_former(out: &Path, name: &str, current: &Path) -> Result<()> {
    for entry in fs::read_dir(out).with_context(|| format!("list {}", out.display()))? {
        let path = entry.context("list former images")?.path();
        let named = path.file_name().is_some_and(|found| found.to_string_lossy().starts_with(name));
        if named && path != current {
            fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// Name and configuration; users as Debian's packages have them.
fn images() -> [(&'static str, Value); 4] {
    let database =
        "test -s $PGDATA/PG_VERSION || initdb --auth=trust --no-sync; exec postgres -c listen_addresses='*'";
    [
        ("debian", json!({"Cmd": ["bash"], "Env": [PATH]})),
        (
            "nginx",
            json!({
                "Cmd": ["nginx", "-g", "daemon off;"], "Env": [PATH], "StopSignal": "SIGQUIT",
                "ExposedPorts": {"80/tcp": {}},
            }),
        ),
        (
            "redis",
            json!({
                "Entrypoint": ["redis-server"], "Cmd": ["--bind", "*", "--protected-mode", "no", "--appendonly", "yes"],
                "Env": [PATH], "User": "redis", "WorkingDir": "/data", "ExposedPorts": {"6379/tcp": {}},
            }),
        ),
        (
            "postgres",
            json!({
                "Cmd": ["sh", "-c", database], "Env": [PATH, "PGDATA=/var/lib/postgresql/data"], "User": "postgres",
                "StopSignal": "SIGINT", "ExposedPorts": {"5432/tcp": {}},
            }),
        ),
    ]
}

/// Where this machine gets Debian's packages from.
pub(crate) fn mirror() -> String {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let found = output(targets.args(["Codename: bookworm", "Component: main"])).unwrap_or_default();
    found.lines().next().unwrap_or(MIRROR).to_owned()
}
