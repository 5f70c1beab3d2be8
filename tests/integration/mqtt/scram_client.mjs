// MQTT.js, as an application uses it to log in by SCRAM-SHA-256: its hook for AUTH packets, Node's own cryptography.
// node scram_client.mjs MODULE URL NAME PASSWORD
import { createHash, createHmac, pbkdf2Sync, timingSafeEqual } from "node:crypto";

const [module, url, name, password] = process.argv.slice(2);
const mqtt = (await import(module)).default;

const method = "SCRAM-SHA-256";
const hmac = (key, text) => createHmac("sha256", key).update(text).digest();
const bare = `n=${name},r=fyko+d2lbbFgONRv9qkxdawL`;
let expected;

const client = mqtt.connect(url, {
  protocolVersion: 5,
  reconnectPeriod: 0,
  connectTimeout: 60_000,
  properties: { authenticationMethod: method, authenticationData: Buffer.from(`n,,${bare}`) },
});
client.handleAuth = (packet, callback) => {
  const first = packet.properties.authenticationData.toString();
  const { r, s, i } = Object.fromEntries(first.split(",").map((part) => [part[0], part.slice(2)]));
  const salted = pbkdf2Sync(password, Buffer.from(s, "base64"), Number(i), 32, "sha256");
  const message = `${bare},${first},c=biws,r=${r}`;
  const key = hmac(salted, "Client Key");
  const signature = hmac(createHash("sha256").update(key).digest(), message);
  const proof = Buffer.from(key.map((byte, index) => byte ^ signature[index])).toString("base64");
  expected = hmac(hmac(salted, "Server Key"), message);
  callback(null, {
    cmd: "auth",
    reasonCode: 0x18,
    properties: { authenticationMethod: method, authenticationData: Buffer.from(`c=biws,r=${r},p=${proof}`) },
  });
};
client.on("connect", (connack) => {
  const proof = Buffer.from(connack.properties.authenticationData.toString().slice(2), "base64");
  console.log(JSON.stringify({ connected: true, proved: timingSafeEqual(proof, expected) }));
  client.end();
});
client.on("error", (error) => {
  console.log(JSON.stringify({ connected: false, code: error.code }));
  client.end();
});
