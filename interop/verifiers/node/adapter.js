// Answers, one JSON object a line, whether a verifier from npm accepts a token.
//
// Each {verifier, instance} pair has a cache of its own, filled by its own fetches of the set, and
// every verifier keeps its default settings. The protocol is told in ../README.md.

import { createRequire } from 'node:module';
import http from 'node:http';
import { createInterface } from 'node:readline';
import { createRemoteJWKSet, jwtVerify } from 'jose';
import jsonwebtoken from 'jsonwebtoken';
import { JwksClient } from 'jwks-rsa';
import { Provider } from 'oidc-provider';

// Standard output is for answers only, and oidc-provider has things to say.
console.info = console.error;
console.log = console.error;

const [jwksUri, clientId, audience] = process.argv.slice(2);
const lock = createRequire(import.meta.url)('./package-lock.json');
const version = (name) => lock.packages[`node_modules/${name}`].version;

function joseVerifier() {
  const keys = createRemoteJWKSet(new URL(jwksUri));
  return (token) => jwtVerify(token, keys, { issuer: clientId, audience, algorithms: ['ES256'] });
}

function jwksRsaVerifier() {
  const client = new JwksClient({ jwksUri });
  const keyOf = (header, done) => client.getSigningKey(header.kid)
    .then((key) => done(null, key.getPublicKey()), done);
  const options = { issuer: clientId, audience, algorithms: ['ES256'] };
  return (token) => new Promise((resolve, reject) => {
    jsonwebtoken.verify(token, keyOf, options, (error) => (error ? reject(error) : resolve()));
  });
}

// A whole authorization server, asked for a token with private_key_jwt.
async function oidcProviderVerifier() {
  const provider = new Provider(audience, {
    clients: [{
      client_id: clientId,
      grant_types: ['client_credentials'],
      response_types: [],
      redirect_uris: [],
      token_endpoint_auth_method: 'private_key_jwt',
      token_endpoint_auth_signing_alg: 'ES256',
      jwks_uri: jwksUri,
    }],
    clientAuthMethods: ['private_key_jwt'],
    features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false } },
    // By default it refuses addresses of the loopback network. Everything else stays as it is.
    fetch: (url, { dispatcher, ...options }) => globalThis.fetch(url, options),
  });
  let cause;
  provider.on('grant.error', (_ctx, error) => { cause = error; });
  const server = http.createServer(provider.callback());
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  const endpoint = `http://127.0.0.1:${server.address().port}/token`;
  return async (token) => {
    const response = await fetch(endpoint, {
      method: 'POST',
      body: new URLSearchParams({
        grant_type: 'client_credentials',
        client_assertion_type: 'urn:ietf:params:oauth:client-assertion-type:jwt-bearer',
        client_assertion: token,
      }),
    });
    const body = await response.json();
    if (response.status !== 200 || !body.access_token) {
      const why = cause?.cause?.message ?? cause?.error_detail ?? body.error_description ?? '';
      throw new Error(`${response.status} ${body.error}: ${why}`);
    }
  };
}

const makers = {
  jose: [joseVerifier, version('jose')],
  'jwks-rsa': [jwksRsaVerifier, version('jwks-rsa')],
  'oidc-provider': [oidcProviderVerifier, version('oidc-provider'), { single_use: true }],
};
const instances = new Map();

async function answer({ id, verifier, instance, token }) {
  const name = `${verifier}/${instance}`;
  if (!instances.has(name)) instances.set(name, makers[verifier][0]());
  try {
    await (await instances.get(name))(token);
    return { id, accepted: true };
  } catch (error) {
    return { id, accepted: false, error: `${error.code ?? error.name}: ${error.message}` };
  }
}

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
say({
  verifiers: Object.entries(makers)
    .map(([name, [, its, traits]]) => ({ name, version: its, from: 'npm', ...traits })),
});
const lines = createInterface({ input: process.stdin });
lines.on('line', (line) => answer(JSON.parse(line)).then(say));
lines.on('close', () => process.exit(0));
