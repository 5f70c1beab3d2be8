"""Operations for migrations."""

from typing import Any

from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


class CreateClusteredModel(migrations.CreateModel):
    """Creates a model whose rows are stored in the order of its primary key, where the database can.

    On SQLite that is a table WITHOUT ROWID: one B-tree instead of two, which takes half of the writing.
    """

    def database_forwards(
        self, app_label: str, schema_editor: BaseDatabaseSchemaEditor, from_state: Any, to_state: Any
    ) -> None:
        """Creates the table."""
        model = to_state.apps.get_model(app_label, self.name)
        if schema_editor.connection.vendor != "sqlite" or not self.allow_migrate_model(
            schema_editor.connection.alias, model
        ):
            super().database_forwards(app_label, schema_editor, from_state, to_state)
            return
        sql, parameters = schema_editor.table_sql(model)
        schema_editor.execute(f"{sql} WITHOUT ROWID", parameters or None)
