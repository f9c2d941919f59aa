// follow.js DIRECTORY URL: what a client of a TUF repository does. DIRECTORY has the root.json that is trusted, and keeps
// what was verified. It prints what tuf-js accepted; a refusal goes to standard error, with exit code 1.
const fs = require('fs');
const path = require('path');
const { Updater } = require('tuf-js');

async function follow(directory, url) {
  const targets = fs.mkdtempSync(path.join(directory, 'targets-'));
  const updater = new Updater({
    metadataDir: directory, metadataBaseUrl: url + '/metadata',
    targetDir: targets, targetBaseUrl: url + '/targets',
    config: { fetchRetries: 0 },
  });
  await updater.refresh();
  const info = await updater.getTargetInfo('mesh.json');
  const file = await updater.downloadTarget(info);
  const version = (role) => JSON.parse(fs.readFileSync(path.join(directory, role + '.json'))).signed.version;
  console.log(JSON.stringify({
    root: version('root'), timestamp: version('timestamp'), manifest: fs.readFileSync(file).toString('base64'),
  }));
}

follow(process.argv[2], process.argv[3]).catch((err) => {
  console.error(`${err.name}: ${err.message}`);
  process.exit(1);
});
