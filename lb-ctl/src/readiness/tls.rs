//! TLS for the probe `httpGet` with `scheme: HTTPS`.
//!
//! The server's certificate is not verified, as by the kubelet (`tls.Config{InsecureSkipVerify: true}` in `New` of
//! `k8s.io/kubernetes/pkg/probe/http`): pods are asked by their address, which is in hardly any certificate, and what is
//! learned is only that somebody answers there, as it would be without TLS.

use super::action::Target;
use super::attempt::plainly;
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio_rustls::{TlsConnector, rustls};

/// All probes speak alike: TLS 1.2 or 1.3, with a whole handshake each time.
static CONNECTOR: LazyLock<TlsConnector> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .expect("the provider has suites for every version");
    let mut config =
        config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))).with_no_client_auth();
    config.resumption = Resumption::disabled();
    TlsConnector::from(Arc::new(config))
});

/// Begins TLS on a connection to `target`. Only a name is told to the server (RFC 6066, 3), not an address.
pub(super) async fn begin((host, _): &Target, stream: TcpStream) -> Result<TlsStream<TcpStream>, String> {
    let nameless = || ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
    let name = ServerName::try_from(host.clone()).unwrap_or_else(|_| nameless());
    CONNECTOR.connect(name, stream).await.map_err(|error| format!("no TLS: {}", plainly(&error)))
}

/// Takes every certificate. Neither is it asked whether the server has its key: who may show any certificate may show one
/// of his own.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
