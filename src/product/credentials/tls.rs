//! TLS to the database: libpq's modes on rustls.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use thiserror::Error;
use tokio_postgres_rustls_improved::MakeRustlsConnect;

use super::database_url::{DatabaseUrl, TlsMode};

/// Why TLS cannot be set up.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The file of `PGSSLROOTCERT` or `sslrootcert` is unusable.
    #[error("cannot read certificates from {file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// The cause.
        reason: String,
    },
    /// No trusted certificates.
    #[error("this machine has no trusted certificates to verify the database with; set PGSSLROOTCERT")]
    NoRoots,
    /// rustls refuses the configuration.
    #[error("cannot set up TLS to the database")]
    Rustls(#[from] rustls::Error),
    /// The trusted certificates are unusable.
    #[error("the trusted certificates cannot be used: {0}")]
    Verifier(String),
}

/// The connector for a database.
///
/// # Errors
/// [`TlsError`].
pub(crate) fn connector(url: &DatabaseUrl) -> Result<MakeRustlsConnect, TlsError> {
    let provider = Arc::new(ring::default_provider());
    // As in libpq, a file of trusted certificates turns `require` into `verify-ca`.
    let verifies =
        url.tls >= TlsMode::VerifyCa || (url.tls == TlsMode::Require && url.root_certificates.is_some());
    let authority = if verifies {
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots(url)?), Arc::clone(&provider));
        let built = builder.build();
        Some(built.map_err(|error| TlsError::Verifier(error.to_string()))?)
    } else {
        None
    };
    let verifier = ModeVerifier {
        provider: Arc::clone(&provider),
        authority,
        verifies_host: url.tls == TlsMode::VerifyFull,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

fn roots(url: &DatabaseUrl) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = &url.root_certificates else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() {
            Err(TlsError::NoRoots)
        } else {
            Ok(roots)
        };
    };
    let unusable = |reason: String| TlsError::File {
        file: file.display().to_string(),
        reason,
    };
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unusable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| unusable(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(unusable("the file has no certificate".into()));
    }
    Ok(roots)
}

/// Verifies as much as the mode requires.
#[derive(Debug)]
struct ModeVerifier {
    provider: Arc<CryptoProvider>,
    /// Verifies certificates, if the mode requires it.
    authority: Option<Arc<WebPkiServerVerifier>>,
    verifies_host: bool,
}

impl ServerCertVerifier for ModeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = &self.authority else {
            return Ok(ServerCertVerified::assertion());
        };
        let verified =
            authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The name is checked last, so all other checks have passed.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.verifies_host => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
