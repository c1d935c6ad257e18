//! Program, environment and working directory of a container's first process. Pure.

use crate::{api::ContainerSpec, image::ImageConfig};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// `command` replaces the image's entrypoint and its arguments, `args` only the arguments.
pub(crate) fn arguments(command: &[String], args: &[String], image: &ImageConfig) -> Vec<String> {
    let (program, rest) = match (command, args) {
        ([], []) => (image.entrypoint.as_slice(), image.cmd.as_slice()),
        ([], args) => (image.entrypoint.as_slice(), args),
        (command, args) => (command, args),
    };
    program.iter().chain(rest).cloned().collect()
}

/// The image's variables, then the container's over them; PATH and HOME are always there.
pub(crate) fn environment(spec: &ContainerSpec, hostname: &str, home: &str) -> Vec<String> {
    let mut env: Vec<(String, String)> = vec![("PATH".to_owned(), DEFAULT_PATH.to_owned())];
    let mut set = |name: &str, value: &str| match env.iter_mut().find(|(known, _)| known == name) {
        Some((_, old)) => value.clone_into(old),
        None => env.push((name.to_owned(), value.to_owned())),
    };
    set("HOSTNAME", hostname);
    spec.image.config.env.iter().filter_map(|pair| pair.split_once('=')).for_each(|(n, v)| set(n, v));
    spec.env.iter().for_each(|(name, value)| set(name, value));
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), home.to_owned()));
    }
    env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

/// The container's, else the image's, else `/`.
pub(crate) fn directory(spec: &ContainerSpec) -> String {
    let wanted = spec.working_dir.as_deref().unwrap_or(&spec.image.config.working_dir);
    if wanted.starts_with('/') { wanted.to_owned() } else { format!("/{wanted}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, args: &str, expected: &str) {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let image =
            ImageConfig { entrypoint: words("entry e"), cmd: words("cmd c"), ..ImageConfig::default() };
        assert_eq!(arguments(&words(command), &words(args), &image).join(" "), expected);
    }

    #[test]
    fn command_and_args_replace_as_kubernetes_says() {
        check("", "", "entry e cmd c");
        check("", "a", "entry e a");
        check("x y", "", "x y");
        check("x", "a", "x a");
    }
}
