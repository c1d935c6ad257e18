//! `[p]` Image references, normalized and refused as upstream's `distribution/reference` does.
//!
//! `nginx` → `docker.io/library/nginx:latest`. Not for: talking to registries.

use std::fmt;

use super::digest::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const PATH_MAX: usize = 255;

/// A whole image reference: registry, repository, and a tag or digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is not an image reference; the wording is upstream's, ready for a Pod's status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Does not have the shape.
    #[error("invalid reference format")]
    Format,
    /// Upper case in the repository.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// Would be taken for an image ID.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// Repository above 255 characters.
    #[error("repository name must not be more than {PATH_MAX} characters")]
    NameTooLong,
    /// The part after `@`.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Reads what a user wrote; a missing registry, `library/` and tag are filled in.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_identifier(text) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let before_tag = remainder.split(':').next().unwrap_or_default();
        if before_tag.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ReferenceError::Uppercase(before_tag.to_owned()));
        }
        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let last = name.rfind('/').map_or(0, |i| i + 1);
        let (path, tag) = match name[last..].split_once(':') {
            Some((_, tag)) => (&name[..name.len() - tag.len() - 1], Some(tag)),
            None => (name, None),
        };
        let shaped = is_domain(&domain)
            && path.split('/').all(is_path_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(has_digest_shape);
        if !shaped {
            return Err(ReferenceError::Format);
        }
        if path.len() > PATH_MAX {
            return Err(ReferenceError::NameTooLong);
        }
        let digest = digest.map(Digest::parse).transpose()?;
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some(DEFAULT_TAG.to_owned()),
        };
        Ok(Self { domain, path: path.to_owned(), tag, digest })
    }

    /// `docker.io`, `registry.local:5000`.
    pub fn registry(&self) -> &str {
        &self.domain
    }

    /// `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.path
    }

    /// `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if any.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if any.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository, by digest alone.
    pub fn at(&self, digest: Digest) -> Self {
        Self { digest: Some(digest), tag: None, ..self.clone() }
    }

    /// What the store files it under: the digest decides where both digest and tag are given.
    pub fn key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => format!("{}@{digest}", self.name()),
            (None, tag) => format!("{}:{}", self.name(), tag.as_deref().unwrap_or(DEFAULT_TAG)),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

/// An image ID as users write it: `sha256:<64 hex>` or the bare digits.
pub(crate) fn image_id(text: &str) -> Option<Digest> {
    if is_identifier(text) {
        return Digest::parse(&format!("sha256:{text}")).ok();
    }
    Digest::parse(text).ok()
}

fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn split_domain(text: &str) -> (String, String) {
    let is_domain = |first: &str| {
        first == "localhost" || first.contains(['.', ':']) || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    let (domain, remainder) = match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest)) if is_domain(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain.to_owned(), format!("{OFFICIAL}{remainder}"));
    }
    (domain.to_owned(), remainder.to_owned())
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    let component = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    let ipv6 = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_ok = match ipv6 {
        Some(inner) => !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => host.split('.').all(component),
    };
    host_ok && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut runs = text.split(|c: char| c.is_ascii() && alnum(c as u8)).filter(|run| !run.is_empty());
    let edges = text.bytes().next().is_some_and(alnum) && text.bytes().last().is_some_and(alnum);
    edges && runs.all(|run| matches!(run, "." | "_" | "__") || run.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn has_digest_shape(text: &str) -> bool {
    text.split_once(':').is_some_and(|(algorithm, hex)| {
        algorithm
            .split(['-', '_', '+', '.'])
            .all(|part| part.bytes().next().is_some_and(|b| b.is_ascii_alphabetic()))
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = match Reference::parse(text) {
            Ok(reference) => reference.to_string(),
            Err(error) => format!("error: {error}"),
        };
        assert_eq!(found, expected, "{text:?}");
    }

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn short_names_are_completed() {
        check("nginx", "docker.io/library/nginx:latest");
        check("nginx:1.27", "docker.io/library/nginx:1.27");
        check("grafana/grafana", "docker.io/grafana/grafana:latest");
        check("docker.io/nginx", "docker.io/library/nginx:latest");
        check("index.docker.io/nginx", "docker.io/library/nginx:latest");
        check("localhost/x", "localhost/x:latest");
        check("localhost:5000/x:v1", "localhost:5000/x:v1");
        check("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10");
        check("Reg/x", "Reg/x:latest");
        check("[::1]:5000/a/b:t", "[::1]:5000/a/b:t");
        check("x/a-b__c.d/e---f", "docker.io/x/a-b__c.d/e---f:latest");
    }

    #[test]
    fn digests_stand_for_the_tag() {
        check(&format!("nginx@sha256:{HEX}"), &format!("docker.io/library/nginx@sha256:{HEX}"));
        check(&format!("r.io/x:v1@sha256:{HEX}"), &format!("r.io/x:v1@sha256:{HEX}"));
        let both = Reference::parse(&format!("r.io/x:v1@sha256:{HEX}")).unwrap();
        assert_eq!(both.key(), format!("r.io/x@sha256:{HEX}"));
        check("x@sha256:abc", "error: invalid reference format");
        check(&format!("x@sha256:{}", &HEX[..40]), "error: invalid checksum digest length");
        check(&format!("x@md5:{}", &HEX[..32]), "error: unsupported digest algorithm");
    }

    #[test]
    fn bad_references_get_upstreams_words() {
        check("", "error: invalid reference format");
        check("Nginx", "error: invalid reference format: repository name (library/Nginx) must be lowercase");
        check(
            HEX,
            &format!("error: invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        );
        for bad in [
            "a//b",
            "a b",
            "-a",
            "a-",
            "a..b",
            "a_.b",
            "a:",
            "a:-t",
            "a@",
            "http://a/b",
            "../etc",
            "a/../b",
            "a:b:c",
            "r.io:port/x",
            "r..io/x",
            "/x",
            "x/",
            "ünix",
            "a\0b",
        ] {
            check(bad, "error: invalid reference format");
        }
        check(&"a".repeat(300), "error: repository name must not be more than 255 characters");
        check(&format!("a:{}", "t".repeat(129)), "error: invalid reference format");
    }

    #[test]
    fn ids_are_recognized() {
        assert_eq!(image_id(HEX), image_id(&format!("sha256:{HEX}")));
        assert!(image_id(HEX).is_some() && image_id("nginx").is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,40}") {
            if let Ok(reference) = Reference::parse(&text) {
                let again = Reference::parse(&reference.to_string()).unwrap();
                proptest::prop_assert_eq!(again, reference);
            }
        }
    }
}
