//! `orlop image …`: the image store of a node, with or without a running agent.

use std::{io::Write as _, sync::Arc};

use anyhow::{Context as _, Result};
use orlop_runtime::image::{Auth, Images, Progress, PullOptions};

use super::{human_size, table};
use orlop::args::{DirArgs, ImageCommand};

/// Runs one of them.
///
/// # Errors
/// Whatever the store or the registry says.
pub(crate) fn images(command: ImageCommand, dirs: &DirArgs) -> Result<()> {
    let store = Images::open(dirs.state_dir.join("images"))?;
    let mut out = std::io::stdout().lock();
    match command {
        ImageCommand::Load { paths } => {
            for path in paths {
                let loaded = store.load(&path).with_context(|| format!("load {}", path.display()))?;
                for image in loaded {
                    writeln!(out, "loaded {} {}", image.tags.join(" "), short(&image.id))?;
                }
            }
        }
        ImageCommand::Pull { reference, plain_http, credentials } => {
            let auth = credentials.map(|pair| parse_credentials(&pair)).transpose()?;
            let options =
                PullOptions { plain_http, progress: Some(Arc::new(show)), ..PullOptions::default() };
            crate::app::tls_provider();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the async runtime")?;
            let image = runtime
                .block_on(store.pull(&reference, auth, &options))
                .with_context(|| format!("pull {reference}"))?;
            writeln!(out, "pulled {} {}", image.tags.join(" "), short(&image.id))?;
        }
        ImageCommand::Ls => {
            let rows: Vec<_> = store.list()?.iter().flat_map(rows_of).collect();
            write!(out, "{}", table(&["IMAGE", "TAG", "IMAGE ID", "SIZE"], &rows))?;
        }
        ImageCommand::Rm { references } => {
            for reference in references {
                let removed = store.remove(&reference).with_context(|| format!("remove {reference}"))?;
                for name in removed.untagged.iter().chain(&removed.deleted) {
                    writeln!(out, "removed {name}")?;
                }
            }
        }
    }
    Ok(())
}

fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

fn rows_of(image: &orlop_runtime::image::Image) -> Vec<Vec<String>> {
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
