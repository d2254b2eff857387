/**
 * A certificate for the while: to try TLS on this machine, before a real one is there.
 *
 * @module
 */
import "reflect-metadata"; // which the next needs to be there already
import {
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  PemConverter,
  SubjectAlternativeNameExtension,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { isIP } from "node:net";

const HOUR = 60 * 60 * 1000; // milliseconds
const ALGORITHM = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" };

function toGeneralName(name: string): { type: "dns" | "ip"; value: string } {
  if (isIP(name) === 0) return { type: "dns", value: name };
  // Of IPv6's many spellings the one without a part in dots, which the encoder does not take.
  const value = isIP(name) === 6 ? new URL(`http://[${name}]`).hostname.slice(1, -1) : name;
  return { type: "ip", value };
}

/**
 * Makes a self-signed server certificate (RFC 5280) for DNS names and IP addresses, which is its
 * own root and nobody else's, and its key; valid from an hour ago, as clocks differ.
 *
 * @param names the first is the subject's common name as well.
 * @returns both as PEM, and the SHA-256 of the certificate as others print it, `AB:CD:...`.
 */
export async function makeCertificate(
  names: string[],
  days = 7,
): Promise<{ cert: string; key: string; fingerprint: string }> {
  const keys = await crypto.subtle.generateKey(ALGORITHM, true, ["sign", "verify"]);
  const now = Date.now();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    name: [{ CN: [names[0]] }],
    notBefore: new Date(now - HOUR),
    notAfter: new Date(now + days * 24 * HOUR),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new SubjectAlternativeNameExtension(names.map(toGeneralName)),
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth]),
    ],
  });
  const digest = new Uint8Array(await certificate.getThumbprint("SHA-256"));
  return {
    cert: certificate.toString("pem") + "\n",
    key:
      PemConverter.encode(await crypto.subtle.exportKey("pkcs8", keys.privateKey), "PRIVATE KEY") +
      "\n",
    fingerprint: digest.toHex().toUpperCase().match(/../g)?.join(":") ?? "",
  };
}
