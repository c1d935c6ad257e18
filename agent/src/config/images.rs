//! Settings about images: registries, credentials, when images are removed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use orlop_runtime::image::{Registries, Thresholds};

use super::{
    ConfigError,
    error::value,
    words::{absolute, parse_age},
};

/// Reads and checks a `registries` file.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read_registries(path: &Path) -> Result<Registries, ConfigError> {
    let text =
        fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let registries: Registries = serde_norway::from_str(&text)
        .map_err(|source| ConfigError::Parse { path: path.to_owned(), source })?;
    registries.check().map_err(|reason| value("registries", path.display(), reason))?;
    Ok(registries)
}

pub(super) fn providers(
    config: Option<PathBuf>,
    bin_dir: Option<PathBuf>,
) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    let missing =
        |flag| ConfigError::Missing { flag, reason: "plugins need configuration and directory".into() };
    match (config, bin_dir) {
        (None, None) => Ok(None),
        (Some(config), Some(dir)) => Ok(Some((config, absolute("image-credential-provider-bin-dir", dir)?))),
        (Some(_), None) => Err(missing("image-credential-provider-bin-dir")),
        (None, Some(_)) => Err(missing("image-credential-provider-config")),
    }
}

pub(super) fn thresholds(
    high: Option<u8>,
    low: Option<u8>,
    min_age: Option<String>,
    max_age: Option<String>,
) -> Result<Thresholds, ConfigError> {
    let defaults = Thresholds::default();
    let (high, low) = (high.unwrap_or(defaults.high), low.unwrap_or(defaults.low));
    if high > 100 {
        return Err(value("image-gc-high-threshold-percent", high, "must be at most 100"));
    }
    if low >= high {
        let reason = format!("must be below the high threshold of {high}");
        return Err(value("image-gc-low-threshold-percent", low, reason));
    }
    let age = |flag, text: Option<String>| text.map(|text| parse_age(flag, &text)).transpose();
    let max_age = age("image-maximum-gc-age", max_age)?.filter(|age| !age.is_zero());
    let min_age = age("image-minimum-gc-age", min_age)?.unwrap_or(defaults.min_age);
    Ok(Thresholds { high, low, min_age, max_age })
}

#[cfg(test)]
mod tests {
    use super::super::tests::check;

    #[test]
    fn values_about_images_are_checked() {
        let check = |more: &str, expected: expect_test::Expect| {
            check(&format!("{{nodeName: n1, nodeIp: 10.0.0.3, shim: /s, {more}}}"), expected);
        };
        check(
            "imageGcHighThresholdPercent: 70",
            expect_test::expect![[
                r#"--image-gc-low-threshold-percent "80": must be below the high threshold of 70"#
            ]],
        );
        check(
            "imageMaximumGcAge: -2h",
            expect_test::expect![[r#"--image-maximum-gc-age "-2h": must not be negative"#]],
        );
        check("imageGcPeriod: 0s", expect_test::expect![[r#"--image-gc-period "0s": must be positive"#]]);
        check(
            "imageMaximumGcAge: 1h30m, imageMinimumGcAge: 5m, registryQps: 0, imageGcPeriod: 1m",
            expect_test::expect!["n1 10.0.0.3 orlop 10.42.0.0/16 0.0.0.0:6443"],
        );
        check(
            "imagePullCredentialsVerificationPolicy: Sometimes",
            expect_test::expect![[
                r#"--image-pull-credentials-verification-policy "Sometimes": must be NeverVerify, NeverVerifyPreloadedImages, NeverVerifyAllowlistedImages or AlwaysVerify"#
            ]],
        );
        check(
            "imageCredentialProviderConfig: /c",
            expect_test::expect![
                "--image-credential-provider-bin-dir is needed: plugins need configuration and directory"
            ],
        );
    }
}
