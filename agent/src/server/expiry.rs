//! Until when certificates hold. Not for: making or checking them (`auth`).

use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

/// The end of a certificate; `None` for what is none.
pub(super) fn of(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// The end of the first certificate in a PEM text.
#[must_use]
pub fn of_pem(pem: &[u8]) -> Option<Timestamp> {
    of(&CertificateDer::from_pem_slice(pem).ok()?)
}

/// Seconds left, as upstream shows them: negative when it is over, endless where there is none.
pub(super) fn seconds_left(end: Option<Timestamp>, now: Timestamp) -> f64 {
    end.map_or(f64::INFINITY, |end| end.duration_since(now).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_when_it_ends() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["n1".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2030, 1, 2);
        let pem = params.self_signed(&key).unwrap().pem();
        let end = of_pem(pem.as_bytes());
        assert_eq!(end, "2030-01-02T00:00:00Z".parse().ok());
        let at = |text: &str| seconds_left(end, text.parse().unwrap());
        assert_eq!((at("2030-01-01T23:59:00Z"), at("2030-01-02T00:00:01Z")), (60.0, -1.0));
        assert_eq!(of_pem(b"none"), None);
        assert_eq!(seconds_left(None, Timestamp::now()), f64::INFINITY);
    }
}
