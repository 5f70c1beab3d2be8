// MQTT.js, as an application uses it: publishes to itself at each QoS, then sends telemetry as a device.
// node mqtt_js_client.mjs MODULE URL VERSION TOPIC TOKEN TELEMETRY_TOPIC
const [module, url, version, topic, token, telemetry] = process.argv.slice(2);
const mqtt = (await import(module)).default;

const protocolId = version === "3" ? "MQIsdp" : "MQTT"; // which MQTT.js leaves to who asks for MQTT 3.1
const options = { protocolId, protocolVersion: Number(version), reconnectPeriod: 0, connectTimeout: 60_000 };
const client = await mqtt.connectAsync(url, options);
const received = [];
const all = new Promise((resolve) => {
  client.on("message", (name, payload, packet) => {
    received.push([name, payload.toString(), packet.qos]);
    if (received.length === 3) resolve();
  });
});
await client.subscribeAsync(topic, { qos: 2 });
for (const qos of [0, 1, 2]) await client.publishAsync(topic, String(qos), { qos });
await all;
await client.endAsync();

const device = await mqtt.connectAsync(url, { ...options, username: token });
await device.publishAsync(telemetry, JSON.stringify({ temperature: 21.5 }), { qos: 1 });
await device.endAsync();

let refusal = "";
try {
  await (await mqtt.connectAsync(url, { ...options, username: "x".repeat(32) })).endAsync();
} catch (error) {
  refusal = error.message;
}
console.log(JSON.stringify({ received, refusal }));
