import java.util.ArrayList;
import java.util.List;

/** Tokens bound to the key by DPoP, also under the FAPI 2.0 profile. */
final class BoundTokens {
    private final Setup setup;
    private final Keycloak keycloak;

    BoundTokens(Setup setup) {
        this.setup = setup;
        keycloak = setup.keycloak();
    }

    void dpop(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("dpop")) {
            server.start();
            boundByCommands(scenario, setup.client("dpop", server));
        }
    }

    void fapi(Report.Scenario scenario) throws Exception {
        try (JwksServer server = setup.server("fapi")) {
            server.start();
            boundByCommands(scenario, setup.client("fapi", server));
        }
        // What only the profile refuses shows that it is in force on token requests.
        scenario.accepted("a client secret without the profile",
                keycloak.requestTokenWithSecret("secret"));
        Keycloak.Answer secret = keycloak.requestTokenWithSecret("fapi-secret");
        scenario.refused("a client secret under the profile", secret);
        scenario.figure("a client secret under the profile", secret.told());
        for (String scheme : List.of("http", "https")) {
            Keycloak.Answer answer = keycloak.register("""
                    {"clientId": "registered", "clientAuthenticatorType": "client-jwt",
                     "serviceAccountsEnabled": true, "standardFlowEnabled": false,
                     "attributes": {"use.jwks.url": "true",
                                    "jwks.url": "%s://client.example/jwks.json",
                                    "token.endpoint.auth.signing.alg": "ES256"}}
                    """.formatted(scheme));
            scenario.figure("registration with an " + scheme + " jwks.url",
                    (answer.status() + " " + answer.body()).strip());
            scenario.check("https is asked of a jwks.url, and nothing else: " + answer,
                    answer.status() == (scheme.equals("https") ? 201 : 400));
        }
    }

    /** Assertion and proofs, all by the commands, and what must be refused. */
    private void boundByCommands(Report.Scenario scenario, Client client) throws Exception {
        JwksServer server = client.server();
        String kid = server.currentKey().kid();
        String endpoint = keycloak.tokenEndpoint();
        Keycloak.Answer answer = keycloak.requestToken(
                client.assertionByCommand(true), proof(server, "POST", endpoint));
        scenario.accepted("an assertion and a proof", answer);
        if (answer.accepted()) {
            scenario.check("the token's type is DPoP", answer.member("token_type").equals("DPoP"));
            scenario.check("the token is bound to the kid: " + answer.claims(),
                    Keycloak.member(answer.claims(), "jkt").equals(kid));
            scenario.figure("cnf.jkt, which is the kid", Keycloak.member(answer.claims(), "jkt"));
            String token = answer.member("access_token");
            String userinfo = keycloak.userinfoEndpoint();
            scenario.accepted("the token with a proof that names it", keycloak.userinfo(token,
                    proof(server, "GET", userinfo, "--access-token", token)));
            scenario.refused("the token with a proof that does not name it",
                    keycloak.userinfo(token, proof(server, "GET", userinfo)));
        }
        scenario.refused("no proof",
                keycloak.requestToken(client.assertionByCommand(true), null));
        scenario.refused("a proof for another URL", keycloak.requestToken(
                client.assertionByCommand(true), proof(server, "POST", endpoint + "x")));
    }

    private static String proof(JwksServer server, String method, String url, String... more)
            throws Exception {
        List<String> command = new ArrayList<>(List.of("dpop", "--method", method, "--url", url));
        command.addAll(List.of(more));
        return server.command(command.toArray(String[]::new)).strip();
    }
}
