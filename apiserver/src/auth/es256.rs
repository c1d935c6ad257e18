//! ES256 as the library for tokens wants it, by the cryptography that TLS brings along: its own choice would come with RSA, two
//! more curves and their arithmetic, and a token needs one.

use jsonwebtoken::crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils};
use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::signature::{self, Signer, Verifier};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: signer,
    verifier_factory: verifier,
    // For lists of keys, which the library is not asked for.
    key_utils: KeyUtils::new_unimplemented(),
};

/// From now on, in the whole process. A second call changes nothing.
pub(super) fn install() {
    let _already_installed = PROVIDER.install_default();
}

/// A private key, in PKCS #8.
struct Private(EcdsaKeyPair);

/// A public key: a point, uncompressed.
struct Public(UnparsedPublicKey<Vec<u8>>);

fn signer(algorithm: &Algorithm, key: &EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    only(*algorithm)?;
    let random = SystemRandom::new();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_bytes(), &random);
    Ok(Box::new(Private(pair.map_err(|_rejected| ErrorKind::InvalidEcdsaKey)?)))
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    only(*algorithm)?;
    let point = key.try_get_as_bytes()?.to_vec();
    Ok(Box::new(Public(UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point))))
}

fn only(algorithm: Algorithm) -> Result<(), Error> {
    if algorithm == Algorithm::ES256 { Ok(()) } else { Err(ErrorKind::InvalidAlgorithm.into()) }
}

impl Signer<Vec<u8>> for Private {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        let signed = self.0.sign(&SystemRandom::new(), message);
        signed.map(|signature| signature.as_ref().to_vec()).map_err(|_unspecified| signature::Error::new())
    }
}

impl JwtSigner for Private {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}

impl Verifier<Vec<u8>> for Public {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), signature::Error> {
        self.0.verify(message, signed).map_err(|_unspecified| signature::Error::new())
    }
}

impl JwtVerifier for Public {
    fn algorithm(&self) -> Algorithm {
        Algorithm::ES256
    }
}
