//! Kubeconfig files with everything inside.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A kubeconfig for one server and one client certificate.
pub fn render(server: &str, user: &str, ca_pem: &str, cert_pem: &str, key_pem: &str) -> String {
    let (ca, cert, key) = (STANDARD.encode(ca_pem), STANDARD.encode(cert_pem), STANDARD.encode(key_pem));
    // JSON strings are YAML strings: quoting user input this way needs no YAML writer.
    let (server, user) = (serde_json::Value::from(server), serde_json::Value::from(user));
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         clusters:\n\
         - name: orlop\n  \
           cluster:\n    \
             server: {server}\n    \
             certificate-authority-data: {ca}\n\
         users:\n\
         - name: {user}\n  \
           user:\n    \
             client-certificate-data: {cert}\n    \
             client-key-data: {key}\n\
         contexts:\n\
         - name: orlop\n  \
           context:\n    \
             cluster: orlop\n    \
             user: {user}\n\
         current-context: orlop\n"
    )
}
