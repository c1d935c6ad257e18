//! `orlop image …`: the image store of a node, with or without a running agent.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::Write,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use jiff::Timestamp;
use orlop_runtime::image::{
    Auth, Choice, Goal, Image, Images, Keyring, LoadOptions, Pin, Progress, PullOptions, Source, Thresholds,
    choose, parse_docker_config,
};

use super::{human_size, table};
use orlop::{
    args::{DirArgs, ImageCommand},
    config::read_registries,
    images::collect::with_machine,
};

/// What `load` pins by.
const BY_HAND: &str = "orlop image load";

/// Runs one of them.
///
/// # Errors
/// Whatever the store or the registry says.
pub(crate) fn images(command: ImageCommand, dirs: &DirArgs) -> Result<()> {
    let store = Images::open(dirs.state_dir.join("images"))?;
    let mut out = std::io::stdout().lock();
    match command {
        ImageCommand::Load { paths, no_pin } => {
            for path in paths {
                load(&store, &path, !no_pin, &mut out)?;
            }
        }
        ImageCommand::Pull { reference, registries, docker_config, plain_http, credentials } => {
            let mut keyring = Keyring::from(credentials.map(|pair| parse_credentials(&pair)).transpose()?);
            let default = dirs.state_dir.join("config.json");
            match fs::read(docker_config.as_ref().unwrap_or(&default)) {
                Ok(json) => keyring.add(parse_docker_config(&json)?, &Source::Node),
                Err(error) if docker_config.is_some() => {
                    return Err(error).context("read the docker configuration");
                }
                Err(_) => {}
            }
            let registries = registries.as_deref().map(read_registries).transpose()?.unwrap_or_default();
            let options = PullOptions {
                plain_http,
                registries: Arc::new(registries),
                progress: Some(Arc::new(Steps::default().show())),
                ..PullOptions::default()
            };
            crate::app::tls_provider();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the async runtime")?;
            let image = runtime
                .block_on(store.pull(&reference, keyring, &options))
                .with_context(|| format!("pull {reference}"))?;
            writeln!(out, "pulled {} {}", image.tags.join(" "), short(&image.id))?;
        }
        ImageCommand::Ls => {
            let rows: Vec<_> = store.list()?.iter().flat_map(rows_of).collect();
            write!(out, "{}", table(&["IMAGE", "TAG", "IMAGE ID", "SIZE"], &rows))?;
        }
        ImageCommand::Inspect { references } => {
            let found: Vec<_> = references.iter().map(|name| inspect(&store, name)).collect::<Result<_>>()?;
            writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
        }
        ImageCommand::Rm { references } => {
            for reference in references {
                let id = store.get(&reference)?.map(|image| image.id);
                let removed = store.remove(&reference).with_context(|| format!("remove {reference}"))?;
                for name in removed.untagged.iter().chain(&removed.deleted) {
                    writeln!(out, "removed {name}")?;
                }
                // Whoever removes an image by hand does not want it kept by hand.
                if let Some(id) = id.filter(|id| removed.deleted.contains(id)) {
                    store.unpin(&by_hand(&id))?;
                }
            }
        }
        ImageCommand::Prune { dry_run, by_threshold } => {
            let goal = if by_threshold { Goal::Thresholds } else { Goal::Unused };
            prune(&store, dirs, goal, dry_run, &mut out)?;
        }
    }
    Ok(())
}

fn load(store: &Images, path: &Path, pin: bool, out: &mut impl Write) -> Result<()> {
    let options = LoadOptions { progress: Some(Arc::new(Steps::default().show())), ..LoadOptions::default() };
    let loaded = store.load_with(path, &options).with_context(|| format!("load {}", path.display()))?;
    for image in &loaded {
        writeln!(out, "loaded {} {}", image.tags.join(" "), short(&image.id))?;
    }
    if pin {
        for image in &loaded {
            let pin = Pin { by: by_hand(&image.id), images: vec![image.id.clone()], stamp: String::new() };
            store.pin(&pin)?;
        }
        // A name that has moved on to another image takes the pin with it.
        for old in store.pins()?.iter().filter(|pin| pin.by.starts_with(BY_HAND)).flat_map(|pin| &pin.images)
        {
            if store.get(old)?.is_none_or(|image| image.tags.is_empty() && !loaded.contains(&image)) {
                store.unpin(&by_hand(old))?;
            }
        }
    }
    Ok(())
}

fn by_hand(id: &str) -> String {
    format!("{BY_HAND} {}", short(id))
}

fn inspect(store: &Images, name: &str) -> Result<serde_json::Value> {
    let image = store.get(name)?.with_context(|| format!("no image {name}"))?;
    let pins = store.pins()?.into_iter().filter(|pin| pin.images.contains(&image.id));
    let pinned: Vec<String> = pins.map(|pin| pin.by).collect();
    let paths = store.layer_paths(&image)?;
    let candidates = store.candidates(&BTreeMap::new(), Timestamp::now())?;
    let seen = candidates.into_iter().find(|candidate| candidate.id == image.id);
    let mut value = serde_json::to_value(&image)?;
    value["layerDirectories"] = serde_json::to_value(paths)?;
    value["pinnedBy"] = serde_json::to_value(pinned)?;
    value["since"] = serde_json::to_value(seen.as_ref().map(|seen| seen.since))?;
    value["lastUsed"] = serde_json::to_value(seen.as_ref().and_then(|seen| seen.used))?;
    Ok(value)
}

fn prune(store: &Images, dirs: &DirArgs, goal: Goal, dry_run: bool, out: &mut impl Write) -> Result<()> {
    let now = Timestamp::now();
    let needed = with_machine(BTreeMap::new(), store.needed(), &orlop_runtime::list(&dirs.run_dir));
    let usage = store.usage()?;
    let choice = choose(store.candidates(&needed, now)?, usage, &Thresholds::default(), goal, now);
    write!(out, "{}", table(&["IMAGE", "IMAGE ID", "SIZE", "DOES", "BECAUSE"], &explained(&choice)))?;
    let sum = human_size(choice.expected());
    if dry_run {
        writeln!(
            out,
            "would remove {} images, {sum} (the disk is {}% full)",
            choice.remove.len(),
            usage.percent()
        )?;
        return Ok(());
    }
    let collected = store.collect(&choice);
    writeln!(out, "removed {} images, {} freed", collected.removed.len(), human_size(collected.freed))?;
    match collected.failures.into_iter().next() {
        Some((id, error)) => Err(error).with_context(|| format!("remove {id}")),
        None => Ok(()),
    }
}

fn explained(choice: &Choice) -> Vec<Vec<String>> {
    let row = |image: &orlop_runtime::image::Candidate, does: &str, why: String| {
        let name = image.names.iter().find(|name| !name.contains('@')).or(image.names.first());
        let name = name.map_or("<none>", String::as_str).to_owned();
        vec![name, short(&image.id).to_owned(), human_size(image.bytes), does.to_owned(), why]
    };
    let gone = choice.remove.iter().map(|(image, reason)| row(image, "goes", reason.to_string()));
    gone.chain(choice.keep.iter().map(|(image, kept)| row(image, "stays", kept.to_string()))).collect()
}

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

fn rows_of(image: &Image) -> Vec<Vec<String>> {
    let (id, size) = (short(&image.id).to_owned(), human_size(image.size));
    let row = |name: &str, tag: &str| vec![name.to_owned(), tag.to_owned(), id.clone(), size.clone()];
    if image.tags.is_empty() {
        let name = image.digests.first().and_then(|digest| digest.split('@').next()).unwrap_or("<none>");
        return vec![row(name, "<none>")];
    }
    image
        .tags
        .iter()
        .map(|tag| tag.rsplit_once(':').map_or_else(|| row(tag, "<none>"), |(name, tag)| row(name, tag)))
        .collect()
}

fn parse_credentials(pair: &str) -> Result<Auth> {
    let (username, password) =
        pair.split_once(':').context("--credentials: not of the form user:password")?;
    Ok(Auth { username: username.to_owned(), password: password.to_owned() })
}

/// What was said of each layer on its way, in tenths of it.
#[derive(Default)]
struct Steps(HashMap<String, u64>);

impl Steps {
    /// A layer reports each quarter of a megabyte; a tenth of it is worth a line.
    fn is_news(&mut self, progress: &Progress) -> bool {
        let Progress::Downloading { layer, done, total } = progress else { return true };
        let tenth = done.saturating_mul(10) / (*total).max(1);
        self.0.insert(layer.clone(), tenth) != Some(tenth)
    }

    fn show(self) -> impl Fn(Progress) + Send + Sync {
        let steps = Mutex::new(self);
        move |progress| {
            if steps.lock().unwrap_or_else(PoisonError::into_inner).is_news(&progress) {
                show(progress);
            }
        }
    }
}

/// One line per step on standard error; standard output is for the result.
fn show(progress: Progress) {
    let line = match progress {
        Progress::Resolved { reference, layers, bytes } => {
            format!("{reference}: {layers} layers, {}", human_size(bytes))
        }
        Progress::Present { layer, .. } => format!("{}: already here", short(&layer)),
        Progress::Downloading { layer, done, total } => {
            format!("{}: {} of {}", short(&layer), human_size(done), human_size(total))
        }
        Progress::Unpacking { layer } => format!("{}: unpacking", short(&layer)),
        Progress::LayerDone { layer, bytes } => format!("{}: done, {}", short(&layer), human_size(bytes)),
    };
    let _nobody_reads = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_layer_is_ten_lines_and_not_thousands() {
        let mut steps = Steps::default();
        let total: u64 = 512 << 20;
        let at = |layer: &str, done| Progress::Downloading { layer: layer.to_owned(), done, total };
        let reports = (0..=total).step_by(256 << 10);
        let news = reports.filter(|done| steps.is_news(&at("a", *done))).count();
        assert_eq!(news, 11, "0 % and 100 % too");
        assert!(steps.is_news(&at("b", 0)) && !steps.is_news(&at("b", 1)), "each layer for itself");
        let empty = Progress::Downloading { layer: "c".to_owned(), done: 0, total: 0 };
        assert!(steps.is_news(&empty) && !steps.is_news(&empty));
        let unpacking = Progress::Unpacking { layer: "a".to_owned() };
        assert!(steps.is_news(&unpacking) && steps.is_news(&unpacking));
    }
}
