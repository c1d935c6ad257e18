//! The server's own certificate authority: made at first start, keys readable by the owner only.
//!
//! On disk are the authority and the key that signs service-account tokens. Everything short-lived (serving
//! certificate, the client certificate for kubelets) is made in memory at start and renewed there.

mod files;
pub mod kubeconfig;

use std::net::IpAddr;
use std::path::Path;

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub use files::FileError;

const CA_YEARS: i16 = 10;
/// Lifetime of everything the authority signs.
const LEAF_DAYS: i64 = 365;

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file holds something else than it should.
    #[error("read the {what} in {path}")]
    Broken {
        /// What the file should hold.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why it was not understood.
        #[source]
        source: rcgen::Error,
    },
    /// More groups than fit into one certificate.
    #[error("a client certificate holds at most {most} groups, not {groups}")]
    TooManyGroups {
        /// How many were asked for.
        groups: usize,
        /// How many fit.
        most: usize,
    },
    /// A certificate or key cannot be made.
    #[error("make the {what}")]
    Make {
        /// What was being made.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: rcgen::Error,
    },
}

/// A certificate chain and its key.
#[derive(Debug)]
pub struct Leaf {
    /// Certificates, PEM.
    pub cert_pem: String,
    /// Key, PEM.
    pub key_pem: String,
    /// Certificates, DER.
    pub chain: Vec<CertificateDer<'static>>,
    key_der: Vec<u8>,
}

impl Leaf {
    /// The key for rustls.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key_der.clone()).into()
    }
}

/// The authority.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    ca_der: CertificateDer<'static>,
    account_key: KeyPair,
}

impl Pki {
    /// Opens the authority in a directory, or makes one.
    pub fn open(dir: &Path, now: Timestamp) -> Result<Self, PkiError> {
        files::create_private_dir(dir)?;
        let (ca_path, key_path, account_path) = (dir.join("ca.crt"), dir.join("ca.key"), dir.join("sa.key"));
        let key = load_or_make_key(&key_path, "key of the certificate authority")?;
        let ca_pem = match files::read(&ca_path)? {
            Some(pem) => pem,
            None => {
                let cert = ca_params(now)
                    .self_signed(&key)
                    .map_err(|source| PkiError::Make { what: "certificate authority", source })?;
                files::write_private(&ca_path, &cert.pem())?;
                cert.pem()
            }
        };
        let broken =
            |source| PkiError::Broken { what: "certificate authority", path: ca_path.clone(), source };
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(broken)?;
        let (_, parsed) = x509_parser::pem::parse_x509_pem(ca_pem.as_bytes())
            .map_err(|_| broken(rcgen::Error::CouldNotParseCertificate))?;
        let ca_der = CertificateDer::from(parsed.contents);
        let account_key = load_or_make_key(&account_path, "key for service account tokens")?;
        Ok(Self { issuer, ca_pem, ca_der, account_key })
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The authority's certificate, DER.
    pub fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca_der
    }

    /// The key that signs service-account tokens.
    pub fn account_key(&self) -> &KeyPair {
        &self.account_key
    }

    /// A certificate that says who somebody is.
    pub fn issue_client(&self, user: &str, groups: &[String], now: Timestamp) -> Result<Leaf, PkiError> {
        let mut params = leaf_params(now, ExtendedKeyUsagePurpose::ClientAuth);
        let mut subject = DistinguishedName::new();
        subject.push(DnType::CommonName, user);
        // rcgen keeps one value per type of name, but takes the same type once more under its number.
        let organization = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
        if groups.len() > organization.len() {
            return Err(PkiError::TooManyGroups { groups: groups.len(), most: organization.len() });
        }
        for (kind, group) in organization.into_iter().zip(groups) {
            subject.push(kind, group.as_str());
        }
        params.distinguished_name = subject;
        self.sign(params, "client certificate")
    }

    /// A certificate for a listener.
    pub fn issue_serving(
        &self,
        names: &[String],
        addresses: &[IpAddr],
        now: Timestamp,
    ) -> Result<Leaf, PkiError> {
        let what = "serving certificate";
        let mut params = leaf_params(now, ExtendedKeyUsagePurpose::ServerAuth);
        params.distinguished_name.push(DnType::CommonName, "kube-apiserver");
        for name in names {
            let name = name.as_str().try_into().map_err(|source| PkiError::Make { what, source })?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.subject_alt_names.extend(addresses.iter().copied().map(SanType::IpAddress));
        self.sign(params, what)
    }

    fn sign(&self, params: CertificateParams, what: &'static str) -> Result<Leaf, PkiError> {
        let make = |source| PkiError::Make { what, source };
        let key = KeyPair::generate().map_err(make)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(make)?;
        Ok(Leaf {
            cert_pem: cert.pem(),
            key_pem: key.serialize_pem(),
            chain: vec![cert.der().clone(), self.ca_der.clone()],
            key_der: key.serialize_der(),
        })
    }
}

/// Makes a directory that only the owner may enter, if it is not there.
pub fn private_dir(dir: &Path) -> Result<(), PkiError> {
    Ok(files::create_private_dir(dir)?)
}

/// When a leaf made at `made` should be replaced.
pub fn renew_at(made: Timestamp) -> Timestamp {
    made + ((LEAF_DAYS - 60) * 24).hours()
}

/// A date for rcgen, whose own type this crate does not name.
macro_rules! ymd {
    ($date:expr) => {{
        let date: Date = $date;
        rcgen::date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    }};
}

fn load_or_make_key(path: &Path, what: &'static str) -> Result<KeyPair, PkiError> {
    if let Some(pem) = files::read(path)? {
        return KeyPair::from_pem(&pem).map_err(|source| PkiError::Broken {
            what,
            path: path.to_owned(),
            source,
        });
    }
    let key = KeyPair::generate().map_err(|source| PkiError::Make { what, source })?;
    files::write_private(path, &key.serialize_pem())?;
    Ok(key)
}

fn ca_params(now: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "orlop-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    let today = date(now);
    (params.not_before, params.not_after) = (ymd!(yesterday(today)), ymd!(years_on(today, CA_YEARS)));
    params
}

fn leaf_params(now: Timestamp, purpose: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let today = date(now);
    let end = today.checked_add(LEAF_DAYS.days()).unwrap_or(today);
    (params.not_before, params.not_after) = (ymd!(yesterday(today)), ymd!(end));
    params
}

fn date(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

/// Clocks differ: certificates are valid from the day before.
fn yesterday(date: Date) -> Date {
    date.yesterday().unwrap_or(date)
}

fn years_on(date: Date, years: i16) -> Date {
    date.checked_add(years.years()).unwrap_or(date)
}
