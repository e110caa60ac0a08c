// The API's documentation, drawn from openapi.json.

const REASONS = {
  200: "done", 400: "cannot be read, or mask and photo differ in size", 403: "wrong host or other web site",
  404: "no such address or model", 408: "the upload took too long", 413: "too large", 415: "not a JPEG, PNG or WebP",
  422: "a field is missing, unknown or not allowed here", 500: "the server or the model failed", 502: "the worker stopped: retry",
  503: "busy, or no model yet: retry after Retry-After seconds", 504: "took too long",
};

function make(tag, text, ...children) {
  const element = document.createElement(tag);
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function resolve(schema, root) {
  if (!schema?.$ref) return schema ?? {};
  return schema.$ref.slice(2).split("/").reduce((at, key) => at[key], root);
}

function kindOf(schema, root) {
  const own = resolve(schema, root);
  if (own.enum) return own.enum.join(" | ");
  if (own.anyOf) return own.anyOf.map((part) => kindOf(part, root)).filter((kind) => kind !== "null").join(" or ");
  if (own.type === "array") return `list of ${own.items?.$ref?.split("/").pop() ?? kindOf(own.items, root)}`;
  if (own.format === "binary") return "file";
  if (own.contentMediaType === "application/json") return "JSON text";
  if (own.minimum !== undefined || own.maximum !== undefined) return `${own.type}, ${own.minimum} to ${own.maximum}`;
  return schema?.$ref?.split("/").pop() ?? own.type ?? "";
}

function table(heads, rows) {
  return make("table", "", make("tr", "", ...heads.map((head) => make("th", head))),
    ...rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", "", cell instanceof Node ? cell : String(cell ?? ""))))));
}

function fieldsOf(schema, root) {
  const own = resolve(schema, root);
  return table(["Field", "Kind", "Default", "Meaning"], Object.entries(own.properties ?? {}).map(([name, field]) => {
    const required = own.required?.includes(name) && field.default === undefined;
    const standard = required ? "required" : field.default === null ? "" : String(field.default ?? "");
    return [make("code", name), kindOf(field, root), standard, field.description ?? ""];
  }));
}

function operation(path, method, about, root) {
  const parts = [];
  const content = about.requestBody?.content ?? {};
  if (content["multipart/form-data"]) {
    parts.push(make("h3", "Request: multipart/form-data, or the same as JSON with files in base64"));
    parts.push(fieldsOf(content["multipart/form-data"].schema, root));
  }
  const done = about.responses["200"] ?? {};
  const json = done.content?.["application/json"]?.schema;
  if (json) parts.push(make("h3", "Answer: application/json"), fieldsOf(json, root));
  if (done.headers) {
    parts.push(make("h3", `Answer: ${Object.keys(done.content).join(", ")}`));
    parts.push(table(["Header", "Meaning"], Object.entries(done.headers).map(([name, { description }]) => [make("code", name), description])));
  }
  parts.push(make("h3", "Status"));
  parts.push(table(["Status", "Meaning"], Object.keys(about.responses).map((status) => [status, status === "200" ? about.responses[status].description : REASONS[status]])));
  return make("details", "", make("summary", "", make("b", method.toUpperCase()), make("code", path), make("span", about.summary)), make("div", "", ...parts));
}

document.getElementById("example").textContent = `curl ${location.origin}/api/v1/inpaint \\
  -F image=@photo.jpg -F mask=@mask.png -F expand_px=4 -o filled.png`;

try {
  const root = await (await fetch("/openapi.json")).json();
  const operations = Object.entries(root.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, about]) => operation(path, method, about, root)));
  operations[0].open = true;
  document.getElementById("operations").replaceChildren(...operations);
} catch {
  document.getElementById("state").textContent = "The description could not be read. Is the server still running?";
}
