// The certified OpenID provider, over HTTPS, for the tests: options as JSON in the first argument, and then one
// line with its issuer on standard output. People are read anew from a file of JSON at every question:
// {"<subject>": {"preferred_username": …, "groups": […], …}}. Whoever signs in types their subject.
import { generateKeyPairSync } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import Provider from 'oidc-provider';

const options = JSON.parse(process.argv[2]);
const people = () => JSON.parse(readFileSync(options.people, 'utf8'));
const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

const server = createServer({ cert: readFileSync(options.cert), key: readFileSync(options.key) });
server.listen(0, options.host, () => {
  const issuer = `https://${options.host}:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: options.clients,
    jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), kid: 'one', use: 'sig', alg: 'RS256' }] },
    cookies: { keys: ['only for tests'] },
    scopes: ['openid', 'offline_access', 'profile', 'email', 'groups'],
    claims: {
      openid: ['sub'],
      profile: ['name', 'preferred_username'],
      email: ['email', 'email_verified'],
      groups: ['groups', 'realm_access'],
    },
    pkce: { required: () => true },
    ttl: { AccessToken: options.lasts_s, Session: 3600, Grant: 3600, Interaction: 600, IdToken: 600, RefreshToken: 86400 },
    issueRefreshToken: async () => true,
    rotateRefreshToken: true,
    // Without the endpoint, what it would tell is in the ID token.
    features: { devInteractions: { enabled: true }, userinfo: { enabled: options.userinfo } },
    conformIdTokenClaims: options.userinfo,
    async findAccount(context, subject) {
      const person = people()[subject];
      return person && { accountId: subject, claims: async () => ({ sub: subject, ...person }) };
    },
    // Nobody is asked whether this site may know who they are.
    async loadExistingGrant(context) {
      const grant = new context.oidc.provider.Grant({
        clientId: context.oidc.client.clientId,
        accountId: context.oidc.session.accountId,
      });
      grant.addOIDCScope('openid profile email groups offline_access');
      await grant.save();
      return grant;
    },
  });
  server.on('request', provider.callback());
  console.log(issuer);
});
