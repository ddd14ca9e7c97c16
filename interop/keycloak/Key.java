import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.AlgorithmParameters;
import java.security.KeyFactory;
import java.security.KeyPair;
import java.security.KeyPairGenerator;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.interfaces.ECPrivateKey;
import java.security.interfaces.ECPublicKey;
import java.security.spec.ECGenParameterSpec;
import java.security.spec.ECParameterSpec;
import java.security.spec.ECPrivateKeySpec;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;

/** A P-256 signing key, as a client reads it from {@code private_key.pem}, and what it signs. */
record Key(byte[] scalar, byte[] x, byte[] y) {
    private static final Base64.Encoder BASE64URL = Base64.getUrlEncoder().withoutPadding();
    // RFC 5915: with a named curve and the public key, each field of a P-256 key has one length.
    private static final byte[] BEFORE_SCALAR = HexFormat.of().parseHex("30770201010420");
    private static final byte[] BEFORE_POINT =
            HexFormat.of().parseHex("a00a06082a8648ce3d030107a14403420004");

    /** A new key, known to nobody. */
    static Key generate() throws Exception {
        KeyPairGenerator generator = KeyPairGenerator.getInstance("EC");
        generator.initialize(new ECGenParameterSpec("secp256r1"));
        KeyPair pair = generator.generateKeyPair();
        var point = ((ECPublicKey) pair.getPublic()).getW();
        return new Key(
                fixedWidth(((ECPrivateKey) pair.getPrivate()).getS()),
                fixedWidth(point.getAffineX()),
                fixedWidth(point.getAffineY()));
    }

    /** Reads {@code EC PRIVATE KEY} (SEC1), the form that the server writes by default. */
    static Key read(Path file) throws Exception {
        String pem = Files.readString(file);
        String begin = "-----BEGIN EC PRIVATE KEY-----";
        String body = pem.substring(pem.indexOf(begin) + begin.length(), pem.indexOf("-----END"));
        byte[] der = Base64.getMimeDecoder().decode(body);
        if (der.length != 121 || !Arrays.equals(der, 0, 7, BEFORE_SCALAR, 0, 7)) {
            throw new IllegalArgumentException(file + " holds no P-256 key in SEC1 form");
        }
        return new Key(
                Arrays.copyOfRange(der, 7, 39),
                Arrays.copyOfRange(der, 57, 89),
                Arrays.copyOfRange(der, 89, 121));
    }

    /** The key as {@link #read} takes it. */
    String toPem() {
        byte[] der = concat(BEFORE_SCALAR, scalar, BEFORE_POINT, x, y);
        String body = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(der);
        return "-----BEGIN EC PRIVATE KEY-----\n" + body + "\n-----END EC PRIVATE KEY-----\n";
    }

    /** RFC 7638 thumbprint: computed here once more, so that the server's kid is checked too. */
    String kid() throws Exception {
        String members = "{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"" + BASE64URL.encodeToString(x)
                + "\",\"y\":\"" + BASE64URL.encodeToString(y) + "\"}";
        byte[] digest = MessageDigest.getInstance("SHA-256")
                .digest(members.getBytes(StandardCharsets.UTF_8));
        return BASE64URL.encodeToString(digest);
    }

    /** A JWS in compact form, signed with ES256. */
    String sign(String header, String claims) throws Exception {
        String input = base64url(header) + "." + base64url(claims);
        AlgorithmParameters curve = AlgorithmParameters.getInstance("EC");
        curve.init(new ECGenParameterSpec("secp256r1"));
        PrivateKey key = KeyFactory.getInstance("EC").generatePrivate(new ECPrivateKeySpec(
                new BigInteger(1, scalar), curve.getParameterSpec(ECParameterSpec.class)));
        Signature signature = Signature.getInstance("SHA256withECDSAinP1363Format");
        signature.initSign(key);
        signature.update(input.getBytes(StandardCharsets.US_ASCII));
        return input + "." + BASE64URL.encodeToString(signature.sign());
    }

    private static String base64url(String text) {
        return BASE64URL.encodeToString(text.getBytes(StandardCharsets.UTF_8));
    }

    private static byte[] fixedWidth(BigInteger number) {
        byte[] bytes = number.toByteArray();
        byte[] fixed = new byte[32];
        int length = Math.min(bytes.length, 32);
        System.arraycopy(bytes, bytes.length - length, fixed, 32 - length, length);
        return fixed;
    }

    private static byte[] concat(byte[]... parts) {
        var all = new java.io.ByteArrayOutputStream();
        for (byte[] part : parts) {
            all.writeBytes(part);
        }
        return all.toByteArray();
    }
}
