//! Service-account tokens: ES256 JWTs, bound to the account and perhaps to a pod, checked against both.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Identity, es256};

/// Issuer of every token, and the audience of those for this server.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// Signs and checks tokens.
pub struct Tokens {
    signing: EncodingKey,
    checking: DecodingKey,
    key_id: String,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The signing key cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use the key for service account tokens")]
pub struct KeyError(#[from] jsonwebtoken::errors::Error);

/// A named object with its uid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// The private part of the claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// Namespace of the account.
    pub namespace: String,
    /// The account.
    pub serviceaccount: Reference,
    /// The pod that holds the token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The node of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// When the client should have asked for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// All claims.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who may take it.
    pub aud: Vec<String>,
    /// End, Unix seconds.
    pub exp: i64,
    /// Begin, Unix seconds.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its own id.
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io")]
    pub bound: Bound,
    /// Not before, Unix seconds.
    pub nbf: i64,
    /// The user.
    pub sub: String,
}

impl Tokens {
    /// From the PEM pair of an EC key on P-256.
    pub fn new(private_pem: &str, public_pem: &str) -> Result<Self, KeyError> {
        es256::install();
        let digest = Sha256::digest(public_pem.as_bytes());
        Ok(Self {
            signing: EncodingKey::from_ec_pem(private_pem.as_bytes())?,
            checking: DecodingKey::from_ec_pem(public_pem.as_bytes())?,
            key_id: URL_SAFE_NO_PAD.encode(digest),
        })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Claims) -> Result<String, KeyError> {
        let header = Header { kid: Some(self.key_id.clone()), ..Header::new(Algorithm::ES256) };
        Ok(jsonwebtoken::encode(&header, claims, &self.signing)?)
    }

    /// The claims of a token that is ours, in time and for one of these audiences.
    pub fn check(&self, token: &str, audiences: &[String]) -> Option<Claims> {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_issuer(&[ISSUER]);
        validation.set_audience(audiences);
        validation.validate_nbf = true;
        Some(jsonwebtoken::decode::<Claims>(token, &self.checking, &validation).ok()?.claims)
    }
}

/// Who a token stands for.
pub fn identity(claims: &Claims) -> Identity {
    let Bound { namespace, serviceaccount, pod, node, .. } = &claims.bound;
    let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    let mut who = Identity::new(user_name(namespace, &serviceaccount.name), groups);
    who.uid = Some(serviceaccount.uid.clone());
    let mut extra = |key: &str, value: &str| {
        who.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
    };
    extra("credential-id", &format!("JTI={}", claims.jti));
    for (word, reference) in [("pod", pod), ("node", node)] {
        if let Some(reference) = reference {
            extra(&format!("{word}-name"), &reference.name);
            extra(&format!("{word}-uid"), &reference.uid);
        }
    }
    who
}

/// User name of an account.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    fn tokens() -> Tokens {
        let key = KeyPair::generate().unwrap();
        Tokens::new(&key.serialize_pem(), &key.public_key_pem()).unwrap()
    }

    fn claims(exp: i64) -> Claims {
        let account = Reference { name: "web".into(), uid: "u1".into() };
        let (namespace, pod, node, warnafter) = ("ns".into(), None, None, None);
        let bound = Bound { namespace, serviceaccount: account, pod, node, warnafter };
        let (iss, jti, sub) = (ISSUER.into(), "j".into(), user_name("ns", "web"));
        Claims { aud: vec!["a".into()], exp, iat: 0, iss, jti, bound, nbf: 0, sub }
    }

    #[test]
    fn a_token_of_ours_is_taken_and_no_other() {
        let (ours, audience) = (tokens(), ["a".to_owned()]);
        let claims = |exp| claims(exp);
        let token = ours.sign(&claims(i64::MAX)).unwrap();
        assert_eq!(ours.check(&token, &audience), Some(claims(i64::MAX)));
        assert_eq!(ours.check(&token, &["b".to_owned()]), None);
        assert_eq!(ours.check(&ours.sign(&claims(1)).unwrap(), &audience), None);
        assert_eq!(ours.check(&tokens().sign(&claims(i64::MAX)).unwrap(), &audience), None);
        let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else {
            panic!("{token}")
        };
        let short = &signature[..signature.len() - 4];
        let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let shared = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
        let other = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims(i64::MAX - 1)).unwrap());
        for forged in [
            format!("{header}.{payload}."),
            format!("{header}.{payload}.{short}"),
            format!("{header}.{other}.{signature}"),
            format!("{unsigned}.{payload}."),
            format!("{unsigned}.{payload}.{signature}"),
            format!("{shared}.{payload}.{signature}"),
        ] {
            assert_eq!(ours.check(&forged, &audience), None, "{forged}");
        }
    }
}
