//! The release build: eBPF object first, then the static binaries that embed it, then the example images.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::progress::step;
use crate::run::{cargo, output, root, run, target_dir};

/// What the shipped binaries are built for.
pub(crate) const TARGET: &str = "x86_64-unknown-linux-musl";

/// The static binaries of one build.
pub(crate) struct Built {
    /// The multi-call binary.
    pub(crate) orlop: PathBuf,
    /// The shim; `orlop` looks for it beside itself.
    pub(crate) shim: PathBuf,
    /// The server in the example image.
    pub(crate) example_server: PathBuf,
}

/// Builds the eBPF object and returns its path.
pub(crate) fn ebpf() -> Result<PathBuf> {
    step("build the eBPF programs", |step| step.suspend(|| crate::ebpf::build(&root())))
}

/// Builds everything that is shipped.
pub(crate) fn build() -> Result<Built> {
    let object = ebpf()?;
    step("build orlop (release, static)", |step| {
        step.suspend(|| {
            let args = ["build", "--release", "--locked", "--target", TARGET];
            // No relocations to apply at start means no private pages for them: the shim lives once per pod.
            // The agent stays position independent.
            run(cargo(args)
                .args(["-p", "orlop-shim"])
                .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_MUSL_RUSTFLAGS", "-Crelocation-model=static"))?;
            run(cargo(args)
                .args(["-p", "orlop", "-p", "orlop-example-server"])
                .env("ORLOP_EBPF_OBJECT", &object))
        })
    })?;
    let dir = target_dir().join(TARGET).join("release");
    Ok(Built {
        orlop: dir.join("orlop"),
        shim: dir.join("orlop-shim"),
        example_server: dir.join("orlop-example-server"),
    })
}

/// Builds the example images' OCI layouts and returns their directories.
pub(crate) fn images() -> Result<Vec<crate::image::BuiltImage>> {
    let built = build()?;
    images_with(&built)
}

/// The same with binaries already built.
pub(crate) fn images_with(built: &Built) -> Result<Vec<crate::image::BuiltImage>> {
    step("build the example images", |_| {
        crate::image::build_all(&target_dir().join("images"), &built.example_server)
    })
}

/// What `examples/dataplane.yaml` calls the image of `orlop`.
pub(crate) const OWN_IMAGE: &str = concat!("orlop.dev/orlop:v", env!("CARGO_PKG_VERSION"));

/// Builds the image of `orlop`, and `orlop` where none is given.
pub(crate) fn own_image(reference: &str, program: Option<PathBuf>, out: Option<PathBuf>) -> Result<()> {
    let program = program.map_or_else(|| build().map(|built| built.orlop), Ok)?;
    let out = out.unwrap_or_else(|| target_dir().join("orlop-image"));
    step("build the image of orlop", |step| {
        let image = crate::image::own(&out, &program, reference)?;
        step.detail(format_args!("{} in {}", image.reference, image.layout.display()));
        Ok(())
    })
}

/// The layout of images with Debian's servers; quick when it is there.
pub(crate) fn debian_images() -> Result<PathBuf> {
    step("build Debian images (debootstrap)", |_| crate::image::debian::build(&target_dir().join("debian")))
}

/// A machine that whole-machine tests boot; quick when it is there.
pub(crate) fn machine(recipe: crate::machine::Recipe) -> Result<PathBuf> {
    step("build a Debian machine (debootstrap)", |_| {
        crate::machine::build(&target_dir().join("debian"), recipe)
    })
}

/// The executable of the root tier's tests of services, with the kernel programs in it.
pub(crate) fn services_test() -> Result<PathBuf> {
    const NAME: &str = "root_services";
    let mut build = cargo(["test", "--locked", "--workspace", "--test", NAME, "--no-run"]);
    build.args(["--message-format", "json-render-diagnostics"]).env("ORLOP_EBPF_OBJECT", ebpf()?);
    let said = step("build the tests of services", |_| output(&mut build))?;
    let built = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executable = built
        .filter(|message| message["target"]["name"] == NAME)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from));
    executable.context("cargo names no executable of root_services")
}

/// Copies the binaries to `dir`, replacing what runs there (a running file is renamed over, not written into).
pub(crate) fn install(built: &Built, dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    for from in [&built.orlop, &built.shim] {
        let name = from.file_name().context("binary without a name")?;
        let (to, tmp) = (dir.join(name), dir.join(format!(".{}.tmp", name.to_string_lossy())));
        fs::copy(from, &tmp).with_context(|| format!("copy {} to {}", from.display(), tmp.display()))?;
        fs::rename(&tmp, &to).with_context(|| format!("rename to {}", to.display()))?;
    }
    Ok(())
}
